"""The study file: what is trained, on what, and how it is scored. YAML, validated, unknown keys refused.

A study names models; a model names grids of SAEs (sites x architectures x levels) and the matchings between them; the
other sections are the configs of the stages. What can be known without looking at this machine is checked here; what
cannot is in checks.py. Nothing is computed here.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import Field, model_validator

from saelab.core.config import Config, Fault, Faults
from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.core.sites import parse_site
from saelab.instrument.config import READERS, InstrumentConfig
from saelab.interp.run import InterpConfig
from saelab.interp.suite.catalogue import CATALOGUE
from saelab.interp.suite.config import SuiteConfig
from saelab.judges.catalogue import JudgeConfig
from saelab.lm.sources import named
from saelab.matching.run import MatchConfig
from saelab.saes.base import Freeze, TrainConfig
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.selection.criteria.catalogue import that_read
from saelab.selection.run import SelectionConfig
from saelab.stats.estimate import FEWEST
from saelab.steering.config import UtilityConfig
from saelab.store.references import parse_reference
from saelab.study.grids import AdoptedConfig, GridConfig, Name, Option, PathConfig
from saelab.study.harvests import StudyHarvest
from saelab.study.models import ModelConfig
from saelab.text.corpora import CorpusConfig
from saelab.text.hub import pinned
from saelab.training.config import TrainingConfig

EMBEDDED = CorpusConfig().source
APART = "apart"  # context of a validation that leaves out what is wrong between sections


class TextConfig(Config):
    """The text activations are harvested from, and the text held out for scores."""

    corpus: CorpusConfig = Field(default=CorpusConfig(), description="Where the text comes from.")
    context: int = Field(default=128, ge=8, description="Tokens per context, BOS included.")
    train_contexts: int = Field(ge=1, description="Contexts to train on.")
    held_out_contexts: int = Field(ge=1, description="Contexts of other documents, for scores.")

    @model_validator(mode="before")
    @classmethod
    def _documents_are_the_corpus(cls, data: Any) -> Any:
        """`documents` may be written beside `corpus`, which it belongs to."""
        if not isinstance(data, dict) or "documents" not in data:
            return data
        rest = {k: v for k, v in data.items() if k != "documents"}
        corpus = rest.get("corpus", {})
        if not isinstance(corpus, dict) or "documents" in corpus:
            return data
        return rest | {"corpus": corpus | {"documents": data["documents"]}}


class ResourcesConfig(Config):
    """What a cell asks of a cluster (processors are asked for by the number of threads). No part of any result."""

    memory_gb: float = Field(default=4.0, gt=0, description="Memory of one cell in GiB.")
    gpus: float = Field(default=0.0, ge=0, description="Accelerators of one cell; a fraction shares one.")


class StudyConfig(Config):
    """A whole study."""

    name: Name = Field(description="What the study is called.")
    seed: int = Field(default=0, description="The root of all randomness.")
    models: tuple[ModelConfig, ...] = Field(min_length=1, description="Language models, each with its SAEs.")
    text: TextConfig
    harvest: StudyHarvest = StudyHarvest()
    training: TrainingConfig = TrainingConfig()
    interp: InterpConfig = InterpConfig()
    suite: SuiteConfig | None = Field(
        default=None, description="SAEBench's evaluations, run by `saelab interp`; none: only `interp`."
    )
    selection: SelectionConfig = SelectionConfig()
    steering: UtilityConfig = UtilityConfig()
    instrument: InstrumentConfig = InstrumentConfig()
    judge: JudgeConfig = Field(default=JudgeConfig(), description="Who judges interpretability and steered texts.")
    instructions: str | None = Field(
        default=None, description="A file of instructions; by default the forty that are shipped."
    )
    matching: MatchConfig = MatchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    resamples: int = Field(default=2000, ge=100, description="Bootstrap resamples and permutations of the statistics.")

    @property
    def judges(self) -> dict[str, JudgeConfig]:
        """Who is asked: the `judge`, and the `reader` of the instrument where that is another language model."""
        reader = self.instrument.judge
        return {"judge": self.judge} | ({} if reader is None or reader == self.judge else {"reader": reader})

    @property
    def embeds(self) -> bool:
        """Whether descriptions are also tested by sentence embeddings."""
        return self.instrument.reader == READERS[0] and self.interp.n_embedded > 0

    @property
    def rated(self) -> bool:
        """Whether a judge rates steered texts too. Word counts rate nothing that the instrument does not see better."""
        asked = self.steering.ratings
        return self.judge.kind.per_model is None if asked is None else asked

    @model_validator(mode="after")
    def _fits_together(self, info: Any) -> "StudyConfig":
        if info.context != APART and (found := misfits(self)):
            raise Faults(found)
        return self


# Where a study file says who is asked, by `StudyConfig.judges`.
JUDGED_AT: dict[str, tuple[str, ...]] = {"judge": ("judge",), "reader": ("instrument", "reader")}


class SaeSpec(Config):
    """One SAE of a study, by its coordinates. level: None until it is measured (adopted ones that state none).

    site: what it rebuilds, where its features act. reads: of a transcoder, the site that it reads instead.
    steps: of its training, where its grid says another number than the study. ks: the levels that its training is of.
    """

    name: str
    model: ModelConfig
    architecture: str
    level: int | None
    site: str
    d_sae: int
    seed: int
    steer: bool
    effects: bool = False
    options: dict[str, Option] = Field(default_factory=dict)
    adopted: AdoptedConfig | None = None
    start: str | None = None
    start_sha256: str | None = None
    reads: str | None = None
    freeze: Freeze = "none"
    steps: int | None = None
    ks: tuple[int, ...] = ()

    @property
    def control(self) -> str | None:
        """What it is a control of training by, of its own or of its language model; None of an SAE that is asked about.

        Claims of a study are made of the SAEs that are no controls.
        """
        return self.model.control or (None if self.freeze == "none" else f"frozen_{self.freeze}")

    @property
    def training_options(self) -> dict[str, Any]:
        """The settings of its training config beside its coordinates."""
        return self.options | ({"ks": self.ks} if self.ks else {})

    def training_config(self, **ends: int) -> TrainConfig:
        """The settings by which it is trained. ends: the width d_in of what it reads, of a transcoder also d_out."""
        own = self.training_options | {"d_sae": self.d_sae, "level": self.known_level, "freeze": self.freeze}
        return training_config(self.architecture, **ends, **own)

    @property
    def encodes(self) -> str:
        """The site that its codes are of."""
        return self.reads or self.site

    @property
    def known_level(self) -> int:
        """The level, once it is known."""
        if self.level is None:
            raise ArtefactError(f"The level of {self.name} has not been measured yet.")
        return self.level


def saes_of(study: StudyConfig) -> list[SaeSpec]:
    """All SAEs of a study, in the order of the file: of every model its grids, then those that it adopts.

    Raises `UserError` where one that is adopted was not opened yet (`opening.opened`).
    """
    return [s for model in study.models for s in (*_trained(study, model), *_adopted(study, model))]


def _trained(study: StudyConfig, model: ModelConfig) -> list[SaeSpec]:
    return [
        SaeSpec(
            name=_name(
                study, model, grid, f"{architecture}.l0_{level}.{grid.ends(site)}", (width, seed, freeze, steps)
            ),
            model=model,
            architecture=architecture,
            level=level,
            site=str(grid.written(site)),
            reads=None if grid.target is None else str(parse_site(site)),
            d_sae=width,
            seed=seed,
            steer=grid.steer and model.control is None,
            options=grid.options,
            start=grid.start,
            start_sha256=grid.start_sha256,
            freeze=freeze,
            steps=steps,
            ks=grid.levels_together(architecture),
        )
        for grid in model.grids
        for site in grid.sites
        for architecture in grid.architectures
        for level in grid.levels
        for width in grid.widths
        for seed in grid.seeds
        for freeze in grid.freeze
        for steps in grid.steps or (None,)
    ]


def _adopted(study: StudyConfig, model: ModelConfig) -> list[SaeSpec]:
    found = []
    for one in model.saes:
        site = one.site or (one.found.site if one.found else None)
        if one.found is None or site is None:
            raise UserError(f"{one.ref} was not opened yet.", hint="saelab.study.opening.opened(study) opens it.")
        found.append(
            SaeSpec(
                name=name_of(study, model, one),
                model=model,
                architecture=one.architecture or one.found.architecture,
                level=one.level or one.found.level,
                site=str(parse_site(site)),
                d_sae=one.found.d_sae,
                seed=0,
                steer=one.steer and model.control is None,
                effects=one.effects,
                adopted=one,
            )
        )
    return found


def name_of(study: StudyConfig, model: ModelConfig, one: AdoptedConfig) -> str:
    """What tables call an adopted SAE: its `name` as it stands, else as the SAEs of grids."""
    return one.called if one.name or len(study.models) == 1 else f"{model.key}.{one.called}"


def training_of(study: StudyConfig, sae: SaeSpec) -> TrainingConfig:
    """The settings by which an SAE of a grid is trained: the study's, with the steps that its grid gives."""
    return study.training if sae.steps is None else study.training.model_copy(update={"steps": sae.steps})


def is_open(study: StudyConfig) -> bool:
    """Whether every SAE that is adopted or begun with has been opened, so that all are known."""
    begun = all(g.start is None or g.start_sha256 is not None for model in study.models for g in model.grids)
    return begun and all(one.found is not None for model in study.models for one in model.saes)


def steers(study: StudyConfig) -> bool:
    """Whether features of any SAE are steered with."""
    return any(part.steer for m in study.models if m.control is None for part in (*m.grids, *m.saes))


def _name(
    study: StudyConfig, model: ModelConfig, grid: GridConfig, own: str, axes: tuple[int, int, Freeze, int | None]
) -> str:
    """`topk.l0_32.resid_post.15`; the model's key stands in front where there are several models, the width and a
    training seed that is not 0 behind where there are several, what is frozen (`.frozen_decoder`), and its own steps.
    """
    width, seed, freeze, steps = axes
    own += f".w{width}" if len(grid.widths) > 1 else ""
    own += f".s{seed}" if seed else ""
    own += "" if freeze == "none" else f".frozen_{freeze}"
    own += "" if steps is None else f".steps_{steps}"
    return own if len(study.models) == 1 else f"{model.key}.{own}"


def path_saes(study: StudyConfig, model: ModelConfig, path: PathConfig) -> list[SaeSpec]:
    """The SAEs of a path, in order. Raises `ValueError` where a site has none or several, or a name stands for none."""
    found, own = [], [s for s in saes_of(study) if s.model == model]
    for name in path.saes:
        if not (fit := [s for s in own if s.name == name]):
            raise ValueError(f"paths: no SAE is called {name!r}. {nearest(name, [s.name for s in own])}")
        if fit[0].reads is not None:
            raise ValueError(f"paths: {name} is a transcoder, and features of SAEs are followed")
        found += fit[:1]
    for site in path.sites:
        wanted = (path.architecture, path.level, str(parse_site(site)), path.seed)
        fit = [s for s in own if (s.architecture, s.level, s.site, s.seed) == wanted and s.reads is None]
        fit = [s for s in fit if s.freeze == "none"]
        fit = [s for s in fit if path.d_sae in (None, s.d_sae)]
        if len(fit) != 1:
            what = f"{path.architecture}.l0_{path.level}.{wanted[2]}"
            raise ValueError(f"paths: {'no grid trains' if not fit else 'give d_sae or `saes`, as several are'} {what}")
        found += fit
    return found


def misfits(study: "StudyConfig") -> list[Fault]:
    """What is wrong between sections that are right."""
    return [*_unresolved(study), *_unnamed(study), *_unscored(study), *_too_few(study)]


def _unresolved(study: "StudyConfig") -> Iterator[Fault]:
    """References that stand for nothing, in sections that know of none."""
    source = study.text.corpus.source
    try:
        if source != EMBEDDED:
            pinned(parse_reference(source))
    except UserError as error:
        yield Fault(("text", "corpus", "source"), f"{error} Or: {EMBEDDED}.")
    for role, judge in study.judges.items():
        try:
            if judge.kind.takes == "LM":
                named(judge.model)
        except UserError as error:
            yield Fault((*JUDGED_AT[role], "name"), str(error))


def _unnamed(study: "StudyConfig") -> Iterator[Fault]:
    """Two things of one name, and paths through SAEs that no grid has."""
    keys = [m.key for m in study.models]
    twice = [i for i, key in enumerate(keys) if key in keys[:i]]
    yield from (Fault(("models", i), f"another model is called {keys[i]} too: give it a `name`") for i in twice)
    if not is_open(study):
        return
    for first, second in pairwise(sorted(saes_of(study), key=lambda s: s.name)):
        if first.name == second.name:
            yield Fault(("models",), f"two SAEs are called {first.name}: {_apart(first, second)}")
    for i, model in enumerate(study.models):
        for j, path in enumerate(model.paths):
            try:
                path_saes(study, model, path)
            except ValueError as error:
                yield Fault(("models", i, "paths", j), str(error))


def _apart(first: SaeSpec, second: SaeSpec) -> str:
    """In what two SAEs of one name differ, or how both are had."""
    differ = [n for n in SaeSpec.model_fields if getattr(first, n) != getattr(second, n)]
    if differ == ["d_sae"]:
        return f"give both widths in one grid, d_sae: [{first.d_sae}, {second.d_sae}]"
    return (
        "give one a `name`" if first.adopted or second.adopted else f"they differ in {', '.join(differ) or 'nothing'}"
    )


def _unscored(study: "StudyConfig") -> Iterator[Fault]:
    """Names of scores that a study cannot compute, or does not."""
    computed, chosen = that_read("effect", "lens"), study.selection.criteria
    for i, name in enumerate(chosen):
        if name not in computed:
            why = "needs a written concept" if name in that_read("concept") else "is no criterion of an effect"
            yield Fault(("selection", "criteria", i), f"{name!r} {why}. {nearest(name, computed)}")
    known = (*chosen, *that_read("nothing"))
    for i, arm in enumerate(study.steering.arms if steers(study) else ()):
        if arm.criterion is not None and arm.criterion not in known:
            what = f"an arm chooses by {arm.criterion}, which selection.criteria does not list"
            yield Fault(("steering", "arms", i, "criterion"), f"{what}. {nearest(arm.criterion, known)}")
    for i, kind in enumerate(study.suite.only if study.suite else ()):
        if study.suite is not None and kind not in study.suite.kinds:
            yield Fault(("suite", "only", i), f"{kind} needs suite.{CATALOGUE[kind].needs}")


def _too_few(study: "StudyConfig") -> Iterator[Fault]:
    """Sizes below which a stage fails, or its tables hold nothing."""
    text, windows = study.text, study.interp.windows
    rows = text.train_contexts * text.context
    if study.training.batch > rows and any(model.grids for model in study.models):
        yield Fault(("training", "batch"), f"{study.training.batch} tokens a step, but the text has {rows}")
    least = 2 * windows.radius + 2
    if windows.radius < 0 or text.context < least:
        what = f"a window of radius {windows.radius} does not fit into contexts of {text.context} tokens"
        yield Fault(("text", "context"), f"{what}; give at least {least} or a smaller interp.windows.radius")
    yield from _unfolded(study)
    if isinstance(study.matching.reject, float) and study.matching.reject <= 0:
        yield Fault(("matching", "reject"), "a reject cost must be positive")
    if not steers(study):
        return
    if study.interp.n_scored < FEWEST:
        yield Fault(("interp", "n_scored"), f"steering chooses among tested features: at least {FEWEST}")
    for i, arm in enumerate(study.steering.arms):
        if arm.random is not None and arm.random < FEWEST:
            what = f"an SAE's score needs at least {FEWEST} features drawn at random, not {arm.random}"
            yield Fault(("steering", "arms", i, "random"), what)


def _unfolded(study: "StudyConfig") -> Iterator[Fault]:
    """Paths through SAEs that have no thresholds to fold by."""
    if study.matching.fold != "theta" or not is_open(study):
        return
    for i, model in enumerate(study.models):
        for j, path in enumerate(model.paths):
            try:
                saes = path_saes(study, model, path)
            except ValueError:  # is said of the path
                continue
            kinds = [s.adopted.found.architecture if s.adopted and s.adopted.found else s.architecture for s in saes]
            bad = [name for name in kinds if name not in ARCHITECTURES or not ARCHITECTURES[name].has_threshold]
            if bad:
                what = f"{bad[0]} has no thresholds to fold by (matching.fold: theta). Nearest: fold mean"
                yield Fault(("models", i, "paths", j, "saes" if path.saes else "architecture"), what)
