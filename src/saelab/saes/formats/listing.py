"""What lies where no one SAE does: the several SAEs of a repository's root, or the tensors of an unknown file.

Each ends in the command that goes on. Nothing is opened here but headers, and no format is known by name.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from saelab.core.errors import UserError
from saelab.saes.formats.source import PICKLES, Source, listed

DEEPEST = 4  # folders below a root that are looked into
MOST = 5000  # of them
_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
_BESIDE = re.compile(r"sparsity\.|optimizer|scheduler|trainer_state|activation|activations_store|rank_\d|state\.|io\.")
_OF_A_LAYER = re.compile(r"layer_?\d+\.(safetensors|sae\.pt)")
_INNER = ("checkpoints",)  # folders of one SAE's own weights


def below(source: Source, recognises: Callable[[Source], bool]) -> list[str]:
    """Paths, relative to the source's folder, of the SAEs in the folders below it."""
    found: list[str] = []
    folders = [source.folder]
    for _ in range(DEEPEST):
        folders = sorted(p for f in folders for p in f.iterdir() if p.is_dir() and not p.name.startswith("."))[:MOST]
        here = [f for f in folders if recognises(Source(f, str(f)))]
        found += [f.relative_to(source.folder).as_posix() for f in here]
        folders = [f for f in folders if f not in here]
    return sorted(found, key=_natural)


def homes(names: Iterable[str]) -> list[str]:
    """Folders (or, of files that are one layer each, the files) of the SAEs in a list of a repository's files."""
    found = set()
    for path in (PurePosixPath(n) for n in names):
        if path.suffix not in _WEIGHTS or _BESIDE.match(path.name):
            continue
        if _OF_A_LAYER.fullmatch(path.name):
            found.add(str(path))
        else:
            folder = path.parent.parent if path.parent.name in _INNER else path.parent
            found.add("" if str(folder) == "." else str(folder))
    return sorted(found, key=_natural)


def several(name: str, found: list[str]) -> UserError:
    """The error of a root that holds several SAEs (or one, further down), with the next command."""
    what = f"{len(found)} SAEs" if len(found) > 1 else "one SAE further down"
    first = f"{name.rstrip('/')}/{found[0]}"
    opens = f"saelab convert {first} NEW-FOLDER" if found[0].endswith(PICKLES) else f"saelab inspect {first}"
    return UserError(f"{name} holds {what}: {listed(found)}.", hint=f"Open one: {opens}")


def unknown_file(source: Source, name: str) -> UserError:
    """The error of a file that is in no known layout: what it holds, and how it would open."""
    tensors = source.npz(name) if name.endswith(".npz") else source.safetensors(name)
    held = listed([f"{n} {list(t.shape)}" for n, t in sorted(tensors.items())]) or "nothing"
    return UserError(
        f"{source.name} is in no known SAE format; it holds the tensors {held}.",
        hint=f"If they are an SAE's: saelab inspect {source.name} --tensors W_enc=...,W_dec=...,b_enc=...,b_dec=...",
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """layer_2 before layer_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
