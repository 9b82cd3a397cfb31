"""What the cells of one process share: the study, its run folder, and models, texts, activations and SAEs once opened.

Everything is opened when first asked for and kept as long as it is likely to be asked for again. Only paths and configs
are needed to make another workspace of the same study in another process.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock
from typing import Any

from saelab.activations.live import LiveActivations
from saelab.activations.shards import ActivationShards
from saelab.core.errors import ArtefactError
from saelab.core.progress import SILENT, Progress
from saelab.instrument.asked import reader_of
from saelab.instrument.site import Place, place_at
from saelab.interp.run import InterpSite, prepare
from saelab.interp.suite.config import SuiteConfig
from saelab.interp.suite.evaluation import SiteSuite
from saelab.interp.suite.site import prepare as prepare_suite
from saelab.judges.client import Judge
from saelab.judges.embedding import Embedder, EmbeddingJudge
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.transcoder import AnySae
from saelab.store.folders import tensors_name
from saelab.store.layout import RunFolder
from saelab.store.tensors import read_tensors
from saelab.study.adopt import coder_of, sae_of, standing
from saelab.study.spec import ModelConfig, SaeSpec, StudyConfig, saes_of
from saelab.text.instructions import load_instructions
from saelab.text.pack import PackedText

TRAIN, HELD_OUT = "train", "held_out"


def load_lm(model: ModelConfig) -> LanguageModel:
    """The language model of a study file's entry, or what is left of it as a control."""
    lm = LanguageModel.load(model.lm, dtype=model.dtype, device=model.device, plain=model.template, system=model.system)
    return lm if model.control is None else lm.shuffled()


@dataclass
class Workspace:
    """One study in one process.

    asked: judges that another process holds, by `StudyConfig.judges`; the others are opened when first asked for.
    ranks: the processes that train its SAEs together; this one is any of them.
    """

    study: StudyConfig
    run: RunFolder
    progress: Progress = SILENT
    asked: Mapping[str, Judge] = field(default_factory=dict[str, Judge])
    ranks: Ranks = ALONE
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    _lock: Any = field(default_factory=RLock)

    @cached_property
    def saes(self) -> dict[str, SaeSpec]:
        """The study's SAEs by name."""
        return {s.name: s for s in saes_of(self.study)}

    def standing(self, names: Iterable[str]) -> list[SaeSpec]:
        """Those of these SAEs that are scored (`adopt.standing`)."""
        return standing(self.study, self.run, names)

    @cached_property
    def models(self) -> dict[str, ModelConfig]:
        """The study's models by key."""
        return {m.key: m for m in self.study.models}

    @cached_property
    def instructions(self) -> list[str]:
        """The instructions that steered models answer."""
        return load_instructions(self.study.instructions)

    def lm(self, model: ModelConfig) -> LanguageModel:
        """The model in the dtype of the study; one model at a time is kept."""

        def load() -> LanguageModel:
            with self.progress.task(f"loading model {model.key}"):
                return load_lm(model)

        return self._keep("lm", model.key, load)

    def text(self, model: ModelConfig, part: str) -> PackedText:
        """The packed text of a model: `train` or `held_out`."""
        return self._keep(f"text {part}", model.key, lambda: PackedText.load(self.run.tokens(model.key) / part))

    def shards(self, model: ModelConfig, site: str) -> ActivationShards:
        """The activations at a site."""
        return self._keep("shards", (model.key, site), lambda: ActivationShards(self.run.activations(model.key) / site))

    def opened_shards(self, model: ModelConfig, site: str) -> ActivationShards:
        """The same, opened for this caller: where two sites are read side by side."""
        return ActivationShards(self.run.activations(model.key) / site)

    def live(self, model: ModelConfig, sites: Sequence[str], buffer_rows: int) -> LiveActivations:
        """The stream of a model over its training text, with what the sample of its activations says of every site."""
        sample = {site: self.opened_shards(model, site) for site in sites}
        text, config = self.text(model, TRAIN), self.study.harvest.own
        return LiveActivations(self.lm(model), text, sample, config=config, buffer_rows=buffer_rows)

    def sae(self, name: str) -> Sae:
        """A trained or adopted SAE of this study. An `ArtefactError` where it is a transcoder."""
        return sae_of(self._spec(name), self.run)

    def coder(self, name: str) -> AnySae:
        """A trained or adopted SAE of this study, or a transcoder."""
        return coder_of(self._spec(name), self.run)

    def _spec(self, name: str) -> SaeSpec:
        if name not in self.saes:
            raise ArtefactError(f"The study has no SAE {name}.")
        return self.saes[name]

    def site_text(self, spec: SaeSpec) -> InterpSite:
        """What the interpretation of a site's SAEs shares: one pass of the model per site."""

        def read() -> InterpSite:
            model = spec.model
            return prepare(
                self.study.interp,
                self.lm(model),
                site=spec.encodes,
                written=spec.site if spec.reads else None,
                held_out=self.text(model, HELD_OUT),
                packed=self.text(model, TRAIN),
                shards=self.shards(model, spec.encodes),
                progress=self.progress,
            )

        return self._keep("site text", (spec.model.key, spec.site, spec.reads), read)

    @cached_property
    def embedder(self) -> Embedder:
        """What `described` reads texts by."""
        shared = self.judge if self.study.instrument.judge == self.study.judge else self.asked.get("reader")
        return reader_of(self.study.instrument, self.run.replies, shared)

    @property
    def meaning(self) -> Judge | None:
        """The judge of descriptions by meaning, where the study reads by sentence embeddings."""
        return EmbeddingJudge(self.embedder) if self.study.embeds else None

    def place(self, model: ModelConfig, site: str) -> Place:
        """What all that is steered at a site shares."""

        def open_it() -> Place:
            return place_at(
                self.study.instrument,
                self.lm(model),
                self.text(model, TRAIN),
                self.shards(model, site),
                embed=self.embedder,
                instructions=self.instructions,
                elsewhere=lambda other: self.opened_shards(model, other),
            )

        return self._keep("place", (model.key, site), open_it)

    @property
    def suite(self) -> SuiteConfig:
        """The study's suite of evaluations."""
        if self.study.suite is None:
            raise ArtefactError("This study has no suite of evaluations.")
        return self.study.suite

    def site_suite(self, spec: SaeSpec) -> SiteSuite:
        """What the evaluation of a site's SAEs shares."""
        folder = self.run.readings(spec.model.key)

        def prepared() -> SiteSuite:
            text = self.site_text(spec)
            return prepare_suite(
                self.suite, text, lambda key: read_tensors(folder / key / tensors_name(spec.site)), self.progress
            )

        return self._keep("site suite", (spec.model.key, spec.site), prepared)

    @cached_property
    def judge(self) -> Judge:
        """The study's judge, of windows and (where it is not cut for each model) of texts: one for all threads."""
        asked = self.asked.get("judge")
        return asked or self._keep("judge", self.study.judge.name, lambda: self.study.judge.open(self.run.replies))

    def forget(self) -> None:
        """Drop what was opened: files have changed."""
        with self._lock:
            self._kept.clear()

    def close(self) -> None:
        """Close what holds a file open."""
        for name in ("judge", "embedder"):  # only if it was ever asked for
            if (close := getattr(self.__dict__.get(name), "close", None)) is not None:
                close()

    def text_judge(self, model: ModelConfig) -> tuple[Judge, dict[str, Any]]:
        """The judge of a model's steered texts, and what is kept of it in the manifest."""
        cuts = self.study.judge.kind.per_model
        if cuts is None:
            return self.judge, self.study.judge.identity
        kept = self.run.judge(model.key)
        record = kept.read()
        return cuts.judge(self.lm(model), cuts.parse(record, origin=str(kept.path))), record

    def _keep(self, kind: str, key: Any, open_it: Any) -> Any:
        """The last thing opened of each kind; cells that run side by side wait for one opening."""
        with self._lock:
            if kind not in self._kept or self._kept[kind][0] != key:
                self._kept.pop(kind, None)  # let the former go before the next is read
                self._kept[kind] = (key, open_it())
            return self._kept[kind][1]
