"""`saelab doctor`: what this machine has and what is missing, one line each."""

import shutil
from importlib import metadata

from saelab.cli.output import show_record
from saelab.core.errors import UserError
from saelab.core.extras import command, extras
from saelab.core.hardware import device_of, memory_bytes
from saelab.store.cache import cache_folder
from saelab.store.provenance import machine, versions


def doctor(*, json: bool = False) -> int:
    """Say what is installed, how much disk and memory there is, and what to install for what is missing.

    Parameters
    ----------
    json:
        Print JSON.
    """
    record = versions() | {k: str(v) for k, v in machine().items()}
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    record["cache"] = f"{cache} ({shutil.disk_usage(cache).free / 1e9:.0f} GB free)"
    memory = memory_bytes()
    record["memory"] = "unknown" if memory is None else f"{memory / 1e9:.0f} GB"
    record["accelerator"] = _accelerator()
    record["device"] = _device()
    for extra, distributions in extras().items():
        absent = [d for d in distributions if not _installed(d)]
        record[f"[{extra}]"] = "ready" if not absent else f"missing {', '.join(absent)}: {command(extra)}"
    show_record(record, as_json=json)
    return 0


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _device() -> str:
    """What `auto` is here, or why what was asked for is not."""
    try:
        return str(device_of("auto"))
    except ImportError:
        return "unknown (torch is not installed)"
    except UserError as error:
        return f"missing: {error.message}"


def _accelerator() -> str:
    try:
        import torch
    except ImportError:
        return "unknown (torch is not installed)"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
