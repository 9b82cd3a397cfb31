"""The language model behind the pages: read in a thread, used by one request at a time, its state always sayable.

A page never waits for it; a use waits a bounded time, and can be stopped between any two blocks of the model. Must
never know what it is used for.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel

BEHIND = "explorer: "  # how threads are called that go on behind the pages
WAIT, TICK = 15.0, 0.1  # seconds: the most that a use waits for another's, and between looks whether it is stopped


class Stopped(Exception):
    """Nobody waits for the answer any more."""


class LiveModel:
    """A language model that is being read, is there, or failed to be read; or none, with the reason.

    name: what it is called. why: of none, the sentence that says so.
    """

    def __init__(self, load: Callable[[], LanguageModel] | None, name: str = "", why: str = ""):
        self.name, self._load, self._why = name, load, why
        self._found: LanguageModel | None = None
        self._turn = threading.Lock()
        self._who, self._since = "", 0.0
        self._began = time.monotonic()
        self.seconds: float | None = None

    def begin(self) -> None:
        """Start reading it; returns at once."""
        self._began = time.monotonic()
        if self._load is not None:
            threading.Thread(target=self._read, name=f"{BEHIND}language model", daemon=True).start()

    def _read(self) -> None:
        assert self._load is not None
        try:
            self._found = self._load()
        except Exception as error:  # whatever it is, pages say it
            self._why = str(error) or type(error).__name__
            self._load = None
        self.seconds = time.monotonic() - self._began

    @property
    def state(self) -> dict[str, str]:
        """ready, loading or none, with a sentence."""
        if self._found is not None:
            return {"state": "ready", "name": self._found.name, "said": f"{self._found.name} is ready"}
        if self._load is not None:
            return {"state": "loading", "name": self.name, "said": f"{self.name} is being read"}
        return {"state": "none", "name": self.name, "said": self._why or "No language model was opened."}

    def get(self) -> LanguageModel:
        """The model. Raises `UserError` where it is not there (yet)."""
        if self._found is None:
            waiting = self._load is not None
            raise UserError(self.state["said"].rstrip(".") + ".", hint="Try again in a moment." if waiting else None)
        return self._found

    @contextmanager
    def turn(self, who: str, stop: Callable[[], bool], wait: float | int = WAIT) -> Iterator[LanguageModel]:
        """The model for one use; others wait, so that two pages do not halve each other's pace.

        who: what is done, as others are told. stop: whether nobody waits any more; the use then ends in `Stopped`
        before the model's next block. Raises `UserError` where another use lasts longer than `wait` seconds.
        """
        model, began = self.get(), time.monotonic()
        while not self._turn.acquire(timeout=TICK):
            if stop():
                raise Stopped
            if time.monotonic() - began > wait:
                lasts = time.monotonic() - self._since
                raise UserError(
                    f"{model.name} is in use: {self._who}, for {lasts:.0f} s.", hint="Try again when that has ended."
                )
        try:
            self._who, self._since = who, time.monotonic()
            with _stoppable(model, stop):
                yield model
        finally:
            self._turn.release()


@contextmanager
def _stoppable(lm: LanguageModel, stop: Callable[[], bool]) -> Iterator[None]:
    """Let each block of the model look first whether this thread's use is stopped; other threads' go on."""
    mine = threading.get_ident()

    def look(_block: nn.Module, _inputs: object) -> None:
        if threading.get_ident() == mine and stop():
            raise Stopped

    lists = [m for m in lm.model.modules() if isinstance(m, nn.ModuleList)]
    hooks = [block.register_forward_pre_hook(look) for blocks in lists for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
