"""Whether a run's page is the one that would be made of it now, so that it need not be made again.

The last line of a page says what it was made of (the recorded sums of the run, what people answered, and the code of
this package) and the sum of all before it. Reads no table: a finished run that is asked for again shall not wait for
that.
"""

import hashlib
import re
from pathlib import Path

from saelab.core.config import digest_of
from saelab.store.layout import RunFolder
from saelab.store.sums import recorded, sha256_of

MARK = "<!-- page {page} of {material} -->\n"
_MARKED = re.compile(MARK.format(page=r"(\w{64})", material=r"(\w{64})").rstrip("\n") + r"\n\Z")


def material_of(run: RunFolder) -> str:
    """A name for all that a page is made of."""
    here = Path(__file__).parent
    code = {
        str(f.relative_to(here)): sha256_of(f) for f in here.rglob("*") if f.suffix in {".py", ".html", ".js", ".css"}
    }
    people = run.human.agreement.path
    rated = {"human": sha256_of(people)} if people.is_file() else {}
    return digest_of({"run": recorded(run.root), "code": code} | rated)


def signed(page: str, run: RunFolder) -> str:
    """The page with its last line."""
    return page + MARK.format(page=_sum(page), material=material_of(run))


def unchanged(run: RunFolder) -> bool:
    """Whether the folder's page is there, whole, and made of what the folder holds."""
    if not run.report.is_file():
        return False
    text = run.report.read_bytes().decode("utf-8", errors="replace")
    found = _MARKED.search(text)
    return found is not None and found[1] == _sum(text[: found.start()]) and found[2] == material_of(run)


def _sum(page: str) -> str:
    return hashlib.sha256(page.encode("utf-8")).hexdigest()
