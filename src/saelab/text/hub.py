"""Texts streamed from a Hugging Face data set at a pinned revision, through `datasets`, which is imported on first use.

A moving data set is not a corpus: a reference without a revision is refused. No code of a data set is run: the library
has dropped scripts, and older ones that ran them are too old for saelab. Nothing here shuffles or drops.
"""

from collections.abc import Iterator
from pathlib import Path

from saelab.core.errors import FetchError, MissingDependency, SaelabError, UserError
from saelab.store.references import Reference
from saelab.text.local import text_of


def read_hub(reference: Reference, *, subset: str | None, split: str, column: str | None) -> Iterator[tuple[str, str]]:
    """The texts of one split with their row numbers, in the data set's order, fetched as they are read.

    reference: `hf:org/name@revision[/folder-of-data-files]`. Raises `UserError` for a missing revision or column and
    `FetchError` where the data set, its subset or its split cannot be had.
    """
    pinned(reference)
    try:
        import datasets
    except ImportError:
        raise MissingDependency("hf: corpora need datasets.", hint="pip install 'saelab[lm]'") from None
    if lies_here(reference.name):  # the library would take it for the data set, whatever the revision
        raise UserError(
            f"{reference.name} is also a folder here, which would be read in place of the hub's data set.",
            hint=f"Run from another folder, or write path:{reference.name}.",
        )
    number = 0
    try:
        rows = datasets.load_dataset(
            reference.name,
            name=subset,
            data_dir=reference.inside or None,
            split=split,
            revision=reference.version,
            streaming=True,
        )
        for number, row in enumerate(rows):
            text = text_of(row, column, str(reference))
            if text is not None:
                yield str(number), text
    except SaelabError:
        raise
    except Exception as error:  # network, cache and format errors of many libraries; all mean "not fetched"
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise FetchError(
            f"{reference} (split {split!r}) could not be streamed at row {number}: {type(error).__name__}: {first}",
            hint="Check the name, revision, subset and split, and the network; or give local files as path:...",
        ) from error


def pinned(reference: Reference) -> None:
    """Raises `UserError` where a data set is named without a revision."""
    if reference.kind == "hf" and reference.version is None:
        raise UserError(
            f"{reference} names no revision, so the corpus could change under the study.",
            hint=f"Write hf:{reference.name}@revision, with the commit shown on the data set's page.",
        )


def lies_here(name: str) -> bool:
    """Whether a data set's name is also that of a folder here."""
    return Path(name).exists()
