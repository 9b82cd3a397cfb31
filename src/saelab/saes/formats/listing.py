"""What lies where no one SAE does: the several SAEs of a repository's root, or the tensors of an unknown file.

Each ends in the command that goes on. Nothing is opened here but headers, and no format is known by name.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from shlex import quote

from saelab.core.errors import SaelabError, UserError
from saelab.saes.formats.source import PICKLES, Source, listed

DEEPEST = 4  # folders below a root that are looked into
MOST = 5000  # of them
_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
_BESIDE = re.compile(r"sparsity\.|optimizer|scheduler|trainer_state|activation|activations_store|rank_\d|state\.|io\.")
_OF_A_LAYER = re.compile(r"layer_?\d+\.(safetensors|sae\.pt)")
_INNER = ("checkpoints",)  # folders of one SAE's own weights


def below(source: Source, recognises: Callable[[Source], bool]) -> tuple[list[str], list[str]]:
    """Paths, relative to the source's folder, of the SAEs in the folders below it and in single files.

    Returns them, and the folders that could not be looked into, each with the reason. A folder that several links lead
    to is listed once.
    """
    found: list[str] = []
    bad: list[str] = []
    seen = {os.path.realpath(source.folder)}
    folders = [source.folder]
    for depth in range(DEEPEST + 1):
        inner: list[Path] = []
        for folder in folders[:MOST]:
            path = folder.relative_to(source.folder)
            try:
                if depth and recognises(Source(folder, str(folder))):
                    found.append(path.as_posix())
                    continue
                entries = sorted((p for p in folder.iterdir() if p.name[0] != "."), key=lambda p: (p.is_symlink(), p))
                files = [p.name for p in entries if p.suffix in PICKLES and p.is_file()][:MOST]
                found += [(path / f).as_posix() for f in files if recognises(Source(folder, str(folder), f))]
                inner += [p for p in entries if p.is_dir() and not _seen(p, seen)]
            except (OSError, SaelabError) as error:
                said = error.message.rstrip(".") if isinstance(error, SaelabError) else error.strerror
                bad.append(f"{path.as_posix()} ({said or error})")
        folders = inner
    return sorted(found, key=_natural), bad


def _seen(folder: Path, seen: set[str]) -> bool:
    """Was this folder met under another name? It has been, from now on."""
    real = os.path.realpath(folder)
    if real in seen:
        return True
    seen.add(real)
    return False


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


def several(name: str, found: list[str], bad: Sequence[str] = ()) -> UserError:
    """The error of a root that holds several SAEs (or one, further down), with the next command.

    bad: what could not be looked into.
    """
    alone = "one SAE" if found[0].endswith(PICKLES) else "one SAE further down"
    what = f"{len(found)} SAEs" if len(found) > 1 else alone
    first = quote(f"{name.rstrip('/')}/{found[0]}")
    opens = f"saelab convert {first} NEW-FOLDER" if found[0].endswith(PICKLES) else f"saelab inspect {first}"
    others = f"; not looked into: {listed(bad)}" if bad else ""
    return UserError(f"{name} holds {what}: {listed(found)}{others}.", hint=f"Open one: {opens}")


def unknown_file(source: Source, name: str) -> UserError:
    """The error of a file that is in no known layout: what it holds, and how it would open."""
    tensors = source.npz(name) if name.endswith(".npz") else source.safetensors(name)
    held = listed([f"{n} {list(t.shape)}" for n, t in sorted(tensors.items())]) or "nothing"
    return UserError(
        f"{source.name} is in no known SAE format; it holds the tensors {held}.",
        hint=f"If they are an SAE's: saelab inspect {quote(source.name)} --tensors "
        "W_enc=...,W_dec=...,b_enc=...,b_dec=...,subtract_b_dec=false",
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """layer_2 before layer_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
