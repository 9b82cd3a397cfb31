"""Named tensors in safetensors files, written atomically and refused when not finite.

No pickle is read or written here.
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]  (its stub leaves PathLike open)
from torch import Tensor

from saelab.core.errors import ArtefactError
from saelab.store.files import replacing

open_file: Any = safe_open  # its stub leaves what it opens untyped


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any shapes; a NaN or infinite entry is an `ArtefactError` that names the tensor."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtefactError(f"Tensor {name!r} holds NaN or infinite values; {path.name} was not written.")
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask grants; the library would leave a file for its owner
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, temporary, metadata)
        temporary.chmod(mode)


def read_tensors(path: Path, only: Container[str] | None = None) -> dict[str, Tensor]:
    """Read all tensors of a file, or `only` those; a missing, truncated or foreign file is an `ArtefactError`."""
    try:
        with open_file(path, framework="pt") as handle:
            names = [n for n in handle.keys() if only is None or n in only]  # noqa: SIM118  (not a dict)
            return {name: handle.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{path} is not a readable safetensors file: {error}.") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The file's own words about its tensors; empty where it has none. The same errors as `read_tensors`."""
    try:
        with open_file(path, framework="pt") as handle:
            return dict(handle.metadata() or {})
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{path} is not a readable safetensors file: {error}.") from None
