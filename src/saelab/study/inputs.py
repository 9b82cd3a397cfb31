"""What a study reads from outside its run folder, and the sums that make it part of the keys of its cells.

Whatever a cell's settings name (a model, a corpus, instructions, tables) is found here by that name, so a new stage
gets the sums of what it names for nothing. Wheels are pinned by their version, data sets of a hub by their revision.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from saelab.core.errors import FetchError, SaelabError
from saelab.lm.sources import HUB_FILES, SHORT_NAMES, locate
from saelab.store.cache import input_sum
from saelab.store.references import fetch, parse_reference
from saelab.study.plan import adopted_as
from saelab.study.spec import EMBEDDED, StudyConfig, saes_of
from saelab.text.local import text_files

MISSING = "missing"  # the sum of what is not there: another one than any file's
WEIGHTS = (*HUB_FILES, "*.bin")


def input_sums(study: StudyConfig) -> dict[str, Callable[[], str]]:
    """By the names that stand in cells' settings, how the sum of what they stand for is taken."""
    found: dict[str, Callable[[], str]] = {m.lm: _or_missing(_model, m.lm) for m in study.models if _moves(m.lm)}
    corpus = study.text.corpus.source
    if corpus != EMBEDDED and parse_reference(corpus).kind == "path":
        found[corpus] = _or_missing(_corpus, corpus)
    if study.instructions is not None:
        found[study.instructions] = _or_missing(_file, study.instructions)
    for path in () if isinstance(study.instrument.classes, str) else study.instrument.classes:
        found[str(path)] = _or_missing(_file, str(path))
    if study.suite is not None and study.suite.ravel is not None:
        found[study.suite.ravel] = _or_missing(_tables, study.suite.ravel)
    if study.suite is not None and study.suite.against is not None:
        found[study.suite.against] = _or_missing(_tables, study.suite.against)
    for sae in saes_of(study):
        if sae.adopted is not None and sae.adopted.found is not None:
            found[adopted_as(sae)] = partial(str, sae.adopted.found.sha256)
    for judge in study.judges.values():
        if judge.kind.takes == "LM" and _moves(judge.model):
            found[judge.name] = _or_missing(_model, judge.model)
    return found


def _moves(lm: str) -> bool:
    """Whether a model's name can stand for other files tomorrow."""
    return lm not in SHORT_NAMES and parse_reference(lm).kind != "pypi"


def _or_missing(take: Callable[[str], str], name: str) -> Callable[[], str]:
    def taken() -> str:
        try:
            return take(name)
        except FetchError:  # it may be there again tomorrow, and is no other file for that
            raise
        except (SaelabError, OSError):
            return MISSING

    return taken


def _model(lm: str) -> str:
    """Weights, config, tokenizer and chat template; of a hub's snapshot, its commit."""
    path = locate(lm).path
    if "snapshots" in path.parts:
        return path.parts[path.parts.index("snapshots") + 1]
    if path.is_file():
        return input_sum([(path.name, path)])
    return input_sum({(p.name, p) for kind in WEIGHTS for p in path.glob(kind) if p.is_file()})


def _corpus(source: str) -> str:
    return input_sum(text_files(fetch(source)))


def _file(name: str) -> str:
    return input_sum([("", Path(name))])


def _tables(reference: str) -> str:
    folder = fetch(reference)
    return input_sum((str(p.relative_to(folder)), p) for p in folder.rglob("*") if p.is_file())
