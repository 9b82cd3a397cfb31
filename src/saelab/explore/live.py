"""The language model behind the pages: read in a thread, used by one request at a time, its state always sayable.

A page never waits for it. Must never know what it is used for.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saelab.core.errors import SaelabError, UserError
from saelab.lm.model import LanguageModel

BEHIND = "explorer: "  # how threads are called that go on behind the pages


class LiveModel:
    """A language model that is being read, is there, or failed to be read; or none, with the reason.

    name: what it is called. why: of none, the sentence that says so.
    """

    def __init__(self, load: Callable[[], LanguageModel] | None, name: str = "", why: str = ""):
        self.name, self._load, self._why = name, load, why
        self._found: LanguageModel | None = None
        self._turn = threading.Lock()
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
        except (SaelabError, ImportError, OSError, RuntimeError) as error:
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
    def turn(self) -> Iterator[LanguageModel]:
        """The model for one use; others wait, so that two pages do not halve each other's pace."""
        model = self.get()
        with self._turn:
            yield model
