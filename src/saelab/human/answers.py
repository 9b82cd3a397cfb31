"""One rater's answers: a line of JSON each, on the disk before the next trial is shown; the last line of a trial holds.

A line that was cut off by a crash, or that is none of ours, is counted and said. Must never know what a trial shows.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from saelab.core.errors import ArtefactError, UserError
from saelab.core.names import path_part
from saelab.store.files import disk_error, unlinked
from saelab.store.folders import HumanFolder

ANSWERS = ("left", "right", "neither", "skip")


@dataclass
class Answered:
    """What a rater has answered, by trial in the order of answering; damaged: lines that say nothing."""

    choices: dict[str, str] = field(default_factory=dict[str, str])
    damaged: int = 0


def raters_of(folder: HumanFolder) -> list[str]:
    """Who has answered."""
    return sorted(path.stem for path in folder.answers("any").parent.glob("*.jsonl"))


class AnswerFile:
    """The answers of one rater. Raises `UserError` for a name that is none."""

    def __init__(self, folder: HumanFolder, rater: str):
        try:
            self.rater = path_part(rater)
        except ValueError as error:
            raise UserError(f"A rater cannot be called so: {error}.", hint="Such as --rater anna.") from error
        self._path = folder.answers(rater)
        self._known = (folder.root, self._path.parent, self._path)

    def read(self) -> Answered:
        """All answers; none where there is no file yet."""
        found = Answered()
        for line in self._lines():
            trial, answer = _said(line)
            if trial is None:
                found.damaged += 1
                continue
            found.choices.pop(trial, None)
            if answer is not None:
                found.choices[trial] = answer
        return found

    def add(self, trial: str, answer: str | None) -> None:
        """Write down an answer; None takes a former one back."""
        line = {"trial": trial, "answer": answer, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unlinked(*self._known)
            with self._path.open("ab+") as file:
                # What a crash cut off stays a line of its own.
                cut = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
                file.write(b"\n" * cut + json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, self._path) from error

    def _lines(self) -> Iterator[bytes]:
        try:
            yield from (line for line in self._path.read_bytes().split(b"\n") if line.strip())
        except FileNotFoundError:
            return
        except OSError as error:
            raise ArtefactError(f"{self._path} cannot be read: {error.strerror}.") from error


def _said(line: bytes) -> tuple[str | None, str | None]:
    """The trial and its answer (None: taken back); no trial where the line says nothing."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None, None
    if not isinstance(found, dict) or not isinstance(found.get("trial"), str):
        return None, None
    answer = found.get("answer")
    return (found["trial"], answer) if answer is None or answer in ANSWERS else (None, None)
