"""Every error a user can meet: what was found, what was expected, what to do next.

An error is one sentence and a hint; the command line prints both and exits with the class's code. Nothing here
knows about tensors, files or models, and no error is ever turned into a value.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath


class SaelabError(Exception):
    """Base of all errors meant to be read by a person.

    `message` says what was found and what was expected; `hint` is the next thing to do or run.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


class UserError(SaelabError):
    """What was asked for cannot be done: a wrong name, a mismatch, an empty input."""

    exit_code = 2


class ArtefactError(SaelabError):
    """A file is corrupt, truncated, or not what it says it is."""

    exit_code = 3


class FetchError(SaelabError):
    """Weights or data could not be fetched from a hub or a package mirror."""

    exit_code = 4


class ResourceError(SaelabError):
    """The machine ran out of disk or memory."""

    exit_code = 5


class MissingDependency(SaelabError):
    """A feature needs an optional library that is not installed."""

    exit_code = 6


class JudgeError(SaelabError):
    """A judge gave too few usable judgements for its scores to be reported."""

    exit_code = 7


def nearest(name: str, options: Iterable[str], *, most: int = 8) -> str:
    """A sentence with the nearest valid names: `Did you mean a, b? Valid: ...`."""
    known = list(options)
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    shown = ", ".join(known[:most]) + (f", ... ({len(known)} in all)" if len(known) > most else "")
    start = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{start}Valid: {shown}."


def refuse_name(thing: object, opened_by: str) -> None:
    """A `UserError` for a name or path where the object was to be given; opened_by: the call that opens it."""
    if isinstance(thing, str | PurePath):
        raise UserError(
            f"{str(thing)!r} is a name, and the object itself is taken here.", hint=f"Open it: {opened_by}."
        )
