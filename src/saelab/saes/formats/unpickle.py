"""Pickles, opened by an explicit `convert` only: in a process of its own, weights only, without network, within limits.

The child (`child`, in another interpreter) reads tensors and plain values with torch's weights-only unpickler, which
constructs nothing but tensors and containers, and writes `tensors.safetensors` and `values.json` to a fresh folder; the
parent reads and checks those. Around the unpickler stand limits that would hold if it had a hole: memory, processor
time and file size, an empty environment, a network namespace of its own where the system grants one, and an audit hook
that refuses sockets, processes and files written elsewhere.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from saelab.core.errors import ArtefactError
from saelab.saes.formats.source import check_archive, check_safetensors, floats
from saelab.store.files import read_json
from saelab.store.tensors import read_tensors

TENSORS, VALUES = "tensors.safetensors", "values.json"
SECONDS = 900  # of processor time
SLACK = 4_000_000_000  # bytes of address space beside three copies of the weights: the library itself
STORED = 2  # torch stores tensors uncompressed: an archive that doubles when unpacked was not made by it
_REFUSED_EVENTS = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.", "os.putenv")
_DEEPEST = 8


def unpickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (float32 where floating) and plain values of a torch file; names of nested dicts are joined by "/".

    Raises `ArtefactError` for anything but tensors and plain values, for a bomb, and where a limit is met.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise ArtefactError(f"{path} is {'empty' if path.is_file() else 'missing'}.")
    with path.open("rb") as handle:
        zipped = handle.read(2) == b"PK"
    size = check_archive(path, most=STORED) if zipped else path.stat().st_size
    with tempfile.TemporaryDirectory(prefix="saelab-convert-") as folder:
        # not -m: the package imports this module, and a module imported twice is a warning
        start = "from saelab.saes.formats.unpickle import child; child()"
        command = [sys.executable, "-I", "-c", start, str(path.resolve()), folder, str(size)]
        environment = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "HOME": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
        if done.returncode != 0:
            raise ArtefactError(f"{path} was not opened: {_reason(done.stderr, done.returncode)}")
        check_safetensors(Path(folder) / TENSORS)
        return floats(read_tensors(Path(folder) / TENSORS), str(path)), read_json(Path(folder) / VALUES)


def _reason(stderr: str, code: int) -> str:
    """What the child said, in one sentence."""
    if wanted := re.search(r"GLOBAL ([\w.]+)", stderr):
        return f"it asks to run {wanted[1]}, and a file of weights holds tensors only. Nothing was run."
    if failed := re.search(r"WeightsUnpickler error:\s*([^\n]*)", stderr):
        return f"it is no file of weights as torch writes them ({failed[1].strip()[:200] or 'unreadable'})."
    lines = [line.strip() for line in stderr.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines and code > 0 else f"reading it met a limit (exit {code}). Nothing was run."


def _flattened(data: Any, prefix: str, depth: int = 0) -> dict[str, Any]:
    """Leaves of nested dicts and lists by joined names."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply for a file of weights")
    if isinstance(data, dict):
        items = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        items = [(str(i), value) for i, value in enumerate(data)]
    else:
        return {prefix: data}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= _flattened(value, f"{prefix}/{key}" if prefix else key, depth + 1)
    return found


def _lock(folder: str, size: int) -> None:
    """Limits and the audit hook; the network was taken away before torch was imported."""
    import resource  # POSIX alone: elsewhere pickles are not opened, and everything else works

    page = resource.getpagesize()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * page if Path("/proc/self/statm").exists() else 0
    limits = {"AS": used + SLACK + 3 * size, "CPU": SECONDS, "FSIZE": 2 * size + 10_000_000, "CORE": 0}
    for name, most in limits.items():
        with suppress(ValueError, OSError):  # a system's own limit may be lower, and then holds
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))

    own = os.path.realpath(folder) + os.sep  # without the separator, and with "..", another folder would pass for it

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        elsewhere = writes and not os.path.realpath(str(arguments[0])).startswith(own)
        if event.startswith(_REFUSED_EVENTS) or elsewhere:
            raise PermissionError(f"a file of weights tried {event}")

    sys.addaudithook(refuse)


def _without_network() -> None:
    """A user and network namespace of its own, where the system grants one."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x40000000)


def _main(path: str, folder: str, size: str) -> None:
    import torch
    from safetensors.torch import save_file

    _lock(folder, int(size))
    leaves = _flattened(torch.load(path, map_location="cpu", weights_only=True), "")
    tensors = {k: v.detach().clone().contiguous() for k, v in leaves.items() if isinstance(v, torch.Tensor)}
    values = {k: v for k, v in leaves.items() if isinstance(v, bool | int | float | str) or v is None}
    odd = sorted(leaves.keys() - tensors.keys() - values.keys())
    if odd:
        raise ValueError(f"it holds {odd[0]!r} of type {type(leaves[odd[0]]).__name__}, which is no weight")
    save_file(tensors, Path(folder) / TENSORS)
    (Path(folder) / VALUES).write_text(json.dumps(values))


def child() -> None:
    """What the process of its own runs, with the file, a folder and the file's size as arguments."""
    _without_network()
    try:
        _main(*sys.argv[1:])
    except Exception as error:
        sys.stderr.write(f"{str(error).strip() or type(error).__name__}\n")
        sys.exit(3)
