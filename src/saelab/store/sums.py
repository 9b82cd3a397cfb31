"""Checksums of what a run has recorded of its own files, which are always read. Must never know what a file means."""

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.store.files import sha256_of
from saelab.store.layout import RunFolder

DEEPEST = 5  # folders of a run one inside the other


def recorded(root: Path) -> dict[str, str]:
    """sha256 by name of every file that a run has recorded as finished; empty where there is no ledger."""
    path = RunFolder(root).ledger
    if not path.is_file():
        return {}
    for mode in ("mode=ro", "immutable=1"):  # the second reads where nothing may be written beside it
        with suppress(sqlite3.OperationalError):
            try:
                with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)) as db:
                    rows = db.execute("SELECT artefacts FROM cells WHERE state = 'done'").fetchall()
                return {name: known for (row,) in rows for name, known in json.loads(row).items()}
            except (sqlite3.DatabaseError, ValueError) as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                raise ArtefactError(f"{path} is not a readable ledger: {error}.") from None
    return {}


def steered_texts(run: RunFolder) -> str:
    """A name for all texts that a run has steered: of the sums that it has recorded of their readings."""
    name = Path(run.steering("").readings.path).name
    return digest_of({n: s for n, s in recorded(run.root).items() if Path(n).name == name})


def check_recorded(path: Path) -> None:
    """Refuse a file, or a folder's files, of a run that are not what the run recorded; others pass."""
    path = path.absolute()
    for root in path.parents[:DEEPEST]:
        if RunFolder(root).ledger.is_file():
            within = path.relative_to(root)
            known = recorded(root)
            check_files(root, {n: s for n, s in known.items() if Path(n) == within or within in Path(n).parents})
            return


def check_run(run: RunFolder) -> None:
    """Refuse a run of which a table or record, the files that are read to be shown, is not what it recorded."""
    large = {f.name for f in (run.tokens(""), run.activations(""), run.saes, run.readings(""))}
    check_files(run.root, {n: s for n, s in recorded(run.root).items() if Path(n).parts[0] not in large})


def check_files(root: Path, known: dict[str, str]) -> None:
    """Raise `ArtefactError` that names the files that are there and are not what was recorded."""
    wrong = [name for name, sum_ in known.items() if (root / name).is_file() and sha256_of(root / name) != sum_]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ArtefactError(
            f"{', '.join(wrong[:3])}{more} in {root} {'is' if len(wrong) == 1 else 'are'} damaged: the sha256 is not "
            "the one that was recorded.",
            hint="`saelab run` on the same study and folder makes damaged files again.",
        )
