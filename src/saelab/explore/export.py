"""The pages as files of a folder that opens from disk and asks nothing of anybody: the table, and features' own pages.

What needs the language model (trying a text, steering) is left out. A folder that holds something else is left alone.
The same SAEs give the same bytes.
"""

import json
import shutil
from pathlib import Path

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.explore.browse import browse_page, row_of
from saelab.explore.copies import TYPES, copy_of
from saelab.explore.feature_page import feature_page
from saelab.explore.index import INTEREST
from saelab.explore.links import FileLinks, feature_file
from saelab.explore.pages import COLOURS, STATIC, Pages
from saelab.explore.session import Session
from saelab.report.words import finite
from saelab.store.files import write_text

MARK = "static/explore.css"  # what tells an exported folder from another one
SCRIPTS = ("explore.css", "explore.js", "browse.js", "icon.svg")


def write_pages(session: Session, folder: Path, *, most: int = 200, progress: Progress = SILENT) -> Path:
    """Write the table of all features and pages of each SAE's `most` live ones of most interest; returns the first.

    Material that is missing is made first. Raises `UserError` where the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).exists())):
        raise UserError(f"{folder} is there and holds no exported pages.", hint="Name a new folder.")
    materials = {name: session.explored.material(name) for name in session.names}
    chosen = [(name, f) for name in materials for f in _of_interest(session, name, most)]
    written = frozenset(chosen)
    (folder / "static").mkdir(parents=True, exist_ok=True)
    for name in SCRIPTS:
        shutil.copyfile(STATIC / name, folder / "static" / name)
    shutil.copyfile(COLOURS, folder / "static" / COLOURS.name)
    _write_table(session, folder, FileLinks("index.html", written))
    with progress.task("pages of features", len(chosen), "features") as task:
        for name, feature in chosen:
            links = FileLinks(feature_file(name, feature, "html"), written)
            page = feature_page(session, name, feature, links)
            write_text(folder / links.here, Pages(session.model, links).render("feature.html", page))
            for kind in TYPES:
                copied = copy_of(session.explored, name, materials[name].feature(feature), kind)
                write_text(folder / feature_file(name, feature, kind), copied)
            task.advance()
    return folder / "index.html"


def _of_interest(session: Session, name: str, most: int) -> list[int]:
    """The live features of an SAE that come first in the table, by number."""
    filters = {"sae": (name,), "state": ("live",)}
    return sorted(row["feature"] for row in session.index.search(sort=INTEREST, filters=filters, limit=most).rows)


def _write_table(session: Session, folder: Path, links: FileLinks) -> None:
    """The first page, and all rows as a script: a page on disk may not read other files."""
    page = browse_page(session, links)
    write_text(folder / links.here, Pages(session.model, links).render("browse.html", page, here=""))
    rows = []
    index = session.index
    for number, row in index.in_order(INTEREST):
        values = [v if isinstance(v, str) else finite(v) for v in row.values()]
        words = str(row.get("description") or "").lower()
        rows.append(row_of(row, links) | {"values": values, "words": words, "number": number})
    data = json.dumps({"columns": index.columns, "rows": rows}, ensure_ascii=True)
    write_text(folder / "static" / "features.js", f"window.saelabFeatures = {data};\n")
