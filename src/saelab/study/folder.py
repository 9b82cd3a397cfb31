"""A run folder belongs to one study: what may grow, what is refused, what is given up, and where a cell writes.

Additions (a level, an arm, the suite, a stage) and inputs that changed are accepted and told; a changed setting of
finished cells is refused with what differs, unless they are to be replaced. Nothing is computed here.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saelab.core.errors import UserError
from saelab.store.files import unlinked, write_text
from saelab.store.layout import FORMAT, RunFolder
from saelab.store.ledger import Ledger
from saelab.store.rows import CellRow
from saelab.study.cells import Cell
from saelab.study.names import names_of
from saelab.study.spec import StudyConfig

# Settings that may gain items: the cell is done again with them, and nothing that was asked for is lost.
GROWING = frozenset({"saes", "sites", "arms", "criteria", "only", "dictionaries"})
WRITTEN = 10.0  # seconds within which a launcher that has signed in has written its study down
SHOWN = 5  # differences that a refusal names


@dataclass
class Changes:
    """What differs between the cells of a study and those that its folder holds.

    refused: sentences by cell; told: sentences of what is accepted; over: rows that are given up for a cell of the same
    stage and name.
    """

    refused: dict[str, str] = field(default_factory=dict[str, str])
    told: list[str] = field(default_factory=list[str])
    over: list[CellRow] = field(default_factory=list[CellRow])


def check_folder(study: StudyConfig, folder: RunFolder) -> None:
    """Refuse a folder of another format, or in which a study of another name lives."""
    folder.check_writable()
    if folder.study.exists():
        held = StudyConfig.from_yaml(folder.study)
        if held.name != study.name:
            raise UserError(
                f"{folder.root} holds a run of the study {held.name!r}, not of {study.name!r}.",
                hint="Give another folder with --out.",
            )


def changes(cells: Sequence[Cell], rows: Sequence[CellRow]) -> Changes:
    """Compare the cells of a study with the rows of its folder, by stage and name."""
    found, held = Changes(), {(r.stage, r.name): r for r in rows if r.state in ("done", "running")}
    fresh = [c for c in cells if (c.stage, c.name) not in held]
    for cell in cells:
        row = held.get((cell.stage, cell.name))
        if row is None or row.key == cell.key:
            continue
        found.over.append(row)
        own = cell.own
        grown, changed = _differences(row.own.get("settings", {}), own["settings"])
        if changed:
            found.refused[str(cell)] = "; ".join(changed)
        if grown:
            found.told.append(f"{cell}: {'; '.join(grown)}")
        before = row.own.get("sums", {})
        if not changed and (moved := [n for n, s in own["sums"].items() if n in before and before[n] != s]):
            found.told.append(f"{cell}: {', '.join(moved)} is not what it was")
    done = {r.stage for r in rows if r.state == "done"}
    if added := [str(c) for c in fresh if c.stage in done]:
        found.told.append(f"added: {', '.join(added)}")
    return found


def check_changes(found: Changes, root: Path) -> None:
    """Refuse changed settings of finished cells, with what differs and the two ways on."""
    if not found.refused:
        return
    shown = [f"{cell} ({what})" for cell, what in list(found.refused.items())[:SHOWN]]
    more = f" and {len(found.refused) - SHOWN} more" if len(found.refused) > SHOWN else ""
    raise UserError(
        f"{root} holds this study with other settings: of {', '.join(shown)}{more}.",
        hint="Give another folder with --out, or give up what was finished with the old settings (and all that "
        "follows from it) with --replace.",
    )


def supersede(found: Changes, cells: Sequence[Cell], folder: RunFolder, ledger: Ledger) -> None:
    """Delete what the given-up cells left, and forget them. Raises `UserError` where another launcher is at one."""
    ledger.drop(row.key for row in found.over)
    over = {(row.stage, row.name) for row in found.over}
    for row in found.over:
        for name in row.artefacts:
            _remove(folder, folder.root / name)
    for cell in cells:
        if (cell.stage, cell.name) in over:
            clear(cell, folder)


def told(found: Changes, folder: RunFolder, *, replace: bool, tell: Callable[[str], None]) -> None:
    """Say what was accepted, and what is deleted for it."""
    for sentence in found.told:
        tell(f"Accepted: {sentence}.")
    if found.over:
        files = [folder.root / name for row in found.over for name in row.artefacts]
        size = sum(f.stat().st_size for f in files if f.is_file())
        names = ", ".join(f"{row.stage} {row.name}" for row in found.over[:SHOWN])
        more = f" and {len(found.over) - SHOWN} more" if len(found.over) > SHOWN else ""
        why = "Replaced" if replace and found.refused else "Done again, as what they rest on changed"
        tell(f"{why}: {names}{more}; {len(files)} files ({size / 1e6:,.1f} MB) are deleted.")


def mark(folder: RunFolder) -> None:
    """Mark the folder as one of this format.

    Of launchers that begin at once, the first to sign in may sweep away what another is about to put in place: its own
    mark stands by then.
    """
    try:
        folder.begin()
    except UserError:
        if folder.format != FORMAT:
            raise


def begin(study: StudyConfig, folder: RunFolder, ledger: Ledger) -> None:
    """Sign in, and write the study file and what its names mean into the folder.

    Beside another launcher nothing is written: it works on the same study, or this one is refused (`UserError`).
    """
    text, end = study.to_yaml(), time.monotonic() + WRITTEN
    while not ledger.alone():
        if folder.study.exists() and folder.study.read_text(encoding="utf-8") == text:
            return
        if time.monotonic() > end:
            raise UserError(
                f"Another launcher works on {folder.root} with another study, or with other settings.",
                hint="Give this study a folder of its own with --out, or wait.",
            )
        time.sleep(WRITTEN / 10)
    write_text(folder.study, text)
    folder.names.write(names_of(study))


def clear(cell: Cell, folder: RunFolder) -> None:
    """Take away what a former attempt at a cell left where its stage would go on with it."""
    if (places := GONE_ON_WITH.get(cell.stage)) is not None:
        for place in places(cell, folder):
            _remove(folder, place)


# Stages that go on with what a killed attempt left, and where that lies.
GONE_ON_WITH: Mapping[str, Callable[[Cell, RunFolder], list[Path]]] = {
    "harvest": lambda cell, run: [run.activations(cell.name) / site for site in cell.settings["sites"]],
    "train": lambda cell, run: [run.training(cell.name), *(run.sae(name) for name in cell.settings["saes"])],
    "adopt": lambda cell, run: [run.sae(cell.name)],
    "gate": lambda cell, run: [run.root / "instrument" / cell.name],
    "steer": lambda cell, run: [run.steering(cell.name).root],
    "rate": lambda cell, run: [run.ratings(cell.name).root],
}


def _remove(folder: RunFolder, place: Path) -> None:
    """Remove a file or folder of a run, through no link."""
    unlinked(*(p for p in place.parents if folder.root in p.parents))
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            place.unlink()


def _differences(old: Any, new: Any, way: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """What grew and what changed between two nested settings, in words."""
    where, growing = ".".join(way), bool(set(way[-1:]) & GROWING)
    if isinstance(old, dict) and isinstance(new, dict):
        grown, changed = list[str](), list[str]()
        for key in dict.fromkeys([*old, *new]):
            if key in old and key in new:
                more, other = _differences(old[key], new[key], (*way, str(key)))
                grown, changed = grown + more, changed + other
            elif key in new and growing:
                grown.append(f"{where}: {key} is new")
            else:
                what = f"{_short(old[key])} is gone" if key in old else f"{_short(new[key])} is new"
                changed.append(f"{'.'.join((*way, str(key)))}: {what}")
        return grown, changed
    if old == new:
        return [], []
    if growing and isinstance(old, list) and isinstance(new, list) and all(item in new for item in old):
        return [f"{where}: {', '.join(_short(item) for item in new if item not in old)} is new"], []
    return [], [f"{where}: {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
