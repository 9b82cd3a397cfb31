"""What a running explorer holds: SAEs that are open, the language model behind them, and the material as it is made.

No request waits for a model or for a making: pages say what is under way. Must never know HTML.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import polars as pl

from saelab.core.errors import SaelabError, UserError
from saelab.core.progress import SILENT, Task
from saelab.explore.index import FeatureIndex
from saelab.explore.live import BEHIND, LiveModel, Stopped
from saelab.explore.material import SaeMaterial
from saelab.explore.opened import Explored
from saelab.explore.partners import Partners
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae

READING = "Reading the text with this SAE; a minute or two, once."
HEAD_START = 0.5  # seconds for the first page, before the model takes the processor
MISSING = {
    "effects": "record of effects",
    "steering": "record of steering",
    "partners": "matching",
    "interpretability": "record of interpretability",
}


class Session:
    """One explorer. with_model: whether the language model is read at all."""

    def __init__(self, explored: Explored, *, with_model: bool = True):
        self.explored = explored
        self.model = _model(explored, with_model=with_model)
        self._lock = threading.Lock()
        self._index: FeatureIndex | None = None
        self._held = lru_cache(maxsize=None)(self._material)
        self._said: dict[str, tuple[FeatureIndex, dict[int, str]]] = {}
        self.ended = threading.Event()
        self.making: dict[str, str] = {}  # by SAE, what is said of its material while there is none
        self.failed: dict[str, str] = {}  # by SAE, why its making failed; it is not tried again
        self.under_way: set[str] = set()  # the SAEs whose material comes by itself
        self._starting = threading.Timer(HEAD_START, self.model.begin)
        self._starting.daemon = True
        if explored.progress is SILENT:
            explored.progress = _Ending(self.ended.is_set)

    def begin(self) -> None:
        """Read the tables, then start what goes on behind the pages: the model and the search."""
        index = self.index
        self._starting.start()
        threading.Thread(target=index.warm, name=f"{BEHIND}search", daemon=True).start()

    def end(self) -> None:
        """Let every writing stop at its next block, and every making at its next step."""
        self.ended.set()
        self._starting.cancel()

    def join(self, seconds: float | int) -> None:
        """Wait for what goes on behind the pages, at most so long."""
        last = time.monotonic() + seconds
        for thread in threading.enumerate():
            if thread.name.startswith(BEHIND):
                thread.join(max(0.0, last - time.monotonic()))

    def turn(self, who: str, stop: Callable[[], bool] | None = None) -> AbstractContextManager[LanguageModel]:
        """The language model for one use (`LiveModel.turn`), which ends with the explorer."""
        return self.model.turn(who, stop or self.ended.is_set)

    @property
    def names(self) -> list[str]:
        """What the SAEs are called."""
        return self.explored.names

    def sae(self, name: str) -> Sae:
        """An SAE. Raises `UserError` for a name that is not open."""
        return self.explored.opened(name).sae

    @property
    def index(self) -> FeatureIndex:
        """All features, as far as anything is known of them now."""
        with self._lock:
            if self._index is None:
                self.explored.__dict__.pop("index", None)
                self._index = self.explored.index
            return self._index

    def material(self, name: str) -> SaeMaterial | None:
        """The material of an SAE; None where there is none yet: its making then begins once the model is there."""
        self.explored.opened(name)
        if self.explored.has_material(name):
            return self._held(name)
        self._make(name)
        return None

    def _material(self, name: str) -> SaeMaterial:
        return SaeMaterial(self.explored.opened(name).material_folder.root)

    def _make(self, name: str) -> None:
        state = self.model.state
        with self._lock:
            if name in self.failed or self.making.get(name) == READING:
                return
            if state["state"] != "ready":
                self.making[name] = " ".join(
                    [*self.explored.damaged(name, "material"), f"{state['said'].rstrip('.')}."]
                )
                (self.under_way.add if state["state"] == "loading" else self.under_way.discard)(name)
                return
            self.making[name] = READING
            self.under_way.add(name)
        threading.Thread(target=self._made, args=(name,), name=f"{BEHIND}material", daemon=True).start()

    def _made(self, name: str) -> None:
        try:
            self.explored.material(name)
        except Stopped:
            return
        except Exception as error:  # whatever it is, the page says it
            said = str(error) if isinstance(error, SaelabError) else f"{type(error).__name__}: {error}"
            with self._lock:
                self.failed[name] = (
                    f"Reading the text with this SAE failed: {said.rstrip('.')}. It is tried again at the next start:"
                )
                self.making[name] = self.failed[name]
                self.under_way.discard(name)
            return
        with self._lock:
            self.making.pop(name, None)
            self.under_way.discard(name)
            self._index = None

    def described(self, name: str, feature: int) -> str | None:
        """A feature's description, as far as one is known without waiting."""
        return self._descriptions(name).get(feature)

    def _descriptions(self, name: str) -> dict[int, str]:
        index = self.index
        with self._lock:
            known = self._said.get(name)
            if known is None or known[0] is not index:
                own = index.table.filter(pl.col("sae") == name)
                words = own["description"] if "description" in own.columns else pl.Series([None] * own.height)
                pairs = zip(own["feature"].to_list(), words.to_list(), strict=True)
                known = self._said[name] = (index, {f: text for f, text in pairs if text})
            return known[1]

    def absent(self, name: str, *what: str) -> list[dict[str, str]]:
        """What there is nothing of, as a sentence and the command that makes it."""
        found = [m for m in self.explored.missing if m.sae == name and m.what in what]
        return [
            {
                "said": f"{m.why or f'There is no {MISSING.get(m.what, m.what)} of this SAE.'} Made by",
                "command": m.command,
            }
            for m in found
        ]

    @property
    def matchings(self) -> list[Partners]:
        """The matchings of all runs that are open."""
        found = [self.explored.partners_of_run(one) for one in self.explored.saes.values()]
        return list(dict.fromkeys(p for p in found if p is not None))

    def tried_dose(self, site: str) -> float | None:
        """The largest dose, in nats, that the instrument of an open run has tried at a site; None: there is none."""
        found = []
        for one in self.explored.saes.values():
            if one.site == site and one.run is not None and one.spec is not None:
                gate = one.run.instrument(one.spec.model.key, site).gate
                if gate.exists:
                    found += [row["dose"] for row in gate.read().get("dose_response", []) if row.get("dose")]
        return max(found, default=None)


def _model(explored: Explored, *, with_model: bool) -> LiveModel:
    try:
        name = explored.lm_name
    except UserError as error:
        return LiveModel(None, why=str(error))
    if not with_model:
        return LiveModel(None, name, "No language model was opened (--no-use-lm).")
    return LiveModel(lambda: explored.lm, name)


class _Ending:
    """A progress that shows nothing, and ends the work that reports to it once the explorer ends."""

    def __init__(self, ended: Callable[[], bool]):
        self.ended = ended

    def task(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """See `Progress`."""
        del name, total, unit
        return nullcontext(self)

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        """See `Task`."""
        del amount, figures
        if self.ended():
            raise Stopped

    def found(self, amount: int) -> None:
        """See `Task`."""
        del amount
