"""The study file: what is trained, on what, and how it is scored. YAML, validated, unknown keys refused.

A study names models; a model names grids of SAEs (sites x architectures x levels) and the matchings between them; the
other sections are the configs of the stages. What can be known without looking at this machine is checked here; what
cannot is in checks.py. Nothing is computed here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from saelab.activations.harvest import HarvestConfig
from saelab.core.config import Config, Fault, Faults, faults_in
from saelab.core.errors import UserError, nearest
from saelab.core.names import path_part
from saelab.core.sites import parse_site
from saelab.instrument.config import READERS, InstrumentConfig
from saelab.interp.run import InterpConfig
from saelab.interp.suite.catalogue import CATALOGUE
from saelab.interp.suite.config import SuiteConfig
from saelab.judges.catalogue import JudgeConfig
from saelab.lm.sources import SHORT_NAMES, named
from saelab.matching.run import MatchConfig
from saelab.saes.catalogue import ARCHITECTURES, level_key
from saelab.selection.criteria.catalogue import that_read
from saelab.selection.run import SelectionConfig
from saelab.stats.estimate import FEWEST
from saelab.steering.config import UtilityConfig
from saelab.store.references import Reference, parse_reference
from saelab.text.corpora import CorpusConfig
from saelab.training.config import TrainingConfig

EMBEDDED = CorpusConfig().source
APART = "apart"  # context of a validation that leaves out what is wrong between sections
LARGEST = 2**31  # what any count of a study may reach; more is a slip of the pen


def _known(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}; {nearest(name, ARCHITECTURES)}")
    return name


def said(check: Callable[[str], object]) -> Callable[[str], str]:
    """A validator of a text that keeps it as it stands; what `check` refuses is said of its key."""

    def kept(text: str) -> str:
        try:
            check(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    return kept


Architecture = Annotated[str, AfterValidator(_known)]
SiteName = Annotated[str, AfterValidator(said(parse_site))]
Name = Annotated[str, AfterValidator(path_part)]


class TextConfig(Config):
    """The text activations are harvested from, and the text held out for scores."""

    corpus: CorpusConfig = CorpusConfig()
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


class GridConfig(Config):
    """SAEs at some sites: every architecture at every level, width and training seed."""

    sites: tuple[SiteName, ...] = Field(min_length=1, description="Such as resid_post.15.")
    architectures: tuple[Architecture, ...] = Field(min_length=1, description="Which SAEs.")
    levels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="Target L0 (k for the TopK family)."
    )
    d_sae: int | tuple[int, ...] = Field(description="Features per SAE: one width or several.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="Training runs of each SAE, by number.")
    steer: bool = Field(
        default=True, description="Whether features are selected and steered with, or only trained and scored."
    )
    options: dict[str, float | int | str] = Field(
        default_factory=dict,
        description="Other settings of their training configs, such as lr, lr_decay or preset: paper.",
    )

    @model_validator(mode="after")
    def _every_sae_can_be_trained(self) -> "GridConfig":
        if not self.widths or not 1 <= min(self.widths) <= max(self.widths) < LARGEST:
            raise Faults([Fault(("d_sae",), "must be a positive number or a list of them")])
        found = dict.fromkeys(_untrainable(self))
        if found:
            raise Faults(list(found))
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """All widths."""
        return (self.d_sae,) if isinstance(self.d_sae, int) else self.d_sae


class PathConfig(Config):
    """Features followed from site to site: one SAE of each of these sites, matched pairwise in order."""

    architecture: Architecture
    level: int
    sites: tuple[SiteName, ...] = Field(min_length=2)
    d_sae: int | None = Field(default=None, description="Which width, where grids have several.")
    seed: int = Field(default=0, description="Which training run.")


class ModelConfig(Config):
    """One language model and what is done with it."""

    lm: Annotated[str, AfterValidator(said(named))] = Field(
        description="Short name or reference of the language model."
    )
    name: Name | None = Field(default=None, description="How it is called in tables; by default the end of `lm`.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Type in which the LM runs; auto: bfloat16 where the machine multiplies it."
    )
    template: str | None = Field(
        default=None, description="How it is asked instead of by its chat template: a text that holds {instruction}."
    )
    system: str | None = Field(default=None, description="System prompt of every chat, where its template takes one.")
    grids: tuple[GridConfig, ...] = Field(min_length=1)
    paths: tuple[PathConfig, ...] = ()

    @model_validator(mode="after")
    def _has_a_name_and_a_template(self) -> "ModelConfig":
        try:
            path_part(self.key)
        except ValueError as error:
            raise Faults([Fault(("lm",), f"gives no name for tables: {error}. Say one with `name`.")]) from None
        if self.template is not None and "{instruction}" not in self.template:
            raise Faults([Fault(("template",), "does not hold {instruction}")])
        if self.template is not None and self.system is not None:
            raise Faults([Fault(("system",), "would not be read beside a template; write it into the template")])
        return self

    @property
    def key(self) -> str:
        """A name fit for a folder."""
        if self.name is not None or self.lm in SHORT_NAMES:
            return self.name or self.lm
        where: Reference = parse_reference(self.lm)
        return Path(where.inside or where.name).name


class ResourcesConfig(Config):
    """What a cell asks of a cluster (processors are asked for by the number of threads). No part of any result."""

    memory_gb: float = Field(default=4.0, gt=0, description="Memory of one cell in GiB.")
    gpus: float = Field(default=0.0, ge=0, description="Accelerators of one cell; a fraction shares one.")


class StudyConfig(Config):
    """A whole study."""

    name: Name = Field(description="What the study is called.")
    seed: int = Field(default=0, description="The root of all randomness.")
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    text: TextConfig
    harvest: HarvestConfig = HarvestConfig()
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
    """One SAE of a study, by its coordinates."""

    name: str
    model: ModelConfig
    architecture: Architecture
    level: int
    site: str
    d_sae: int
    seed: int
    steer: bool
    options: dict[str, float | int | str]


def saes_of(study: StudyConfig) -> list[SaeSpec]:
    """All SAEs of a study, in the order of the file."""
    return [
        SaeSpec(
            name=_name(study, model, grid, f"{architecture}.l0_{level}.{parse_site(site)}", (width, seed)),
            model=model,
            architecture=architecture,
            level=level,
            site=str(parse_site(site)),
            d_sae=width,
            seed=seed,
            steer=grid.steer,
            options=grid.options,
        )
        for model in study.models
        for grid in model.grids
        for site in grid.sites
        for architecture in grid.architectures
        for level in grid.levels
        for width in grid.widths
        for seed in grid.seeds
    ]


def _name(study: StudyConfig, model: ModelConfig, grid: GridConfig, own: str, axes: tuple[int, int]) -> str:
    """`topk.l0_32.resid_post.15`; the model's key stands in front where there are several models, the width and a
    training seed that is not 0 behind where there are several.
    """
    width, seed = axes
    own += f".w{width}" if len(grid.widths) > 1 else ""
    own += f".s{seed}" if seed else ""
    return own if len(study.models) == 1 else f"{model.key}.{own}"


def path_saes(study: StudyConfig, model: ModelConfig, path: PathConfig) -> list[SaeSpec]:
    """The SAEs of a path, in order. Raises `ValueError` where a site has none or several."""
    found = []
    for site in path.sites:
        wanted = (model, path.architecture, path.level, str(parse_site(site)), path.seed)
        fit = [s for s in saes_of(study) if (s.model, s.architecture, s.level, s.site, s.seed) == wanted]
        fit = [s for s in fit if path.d_sae in (None, s.d_sae)]
        if len(fit) != 1:
            what = f"{path.architecture}.l0_{path.level}.{wanted[3]}"
            raise ValueError(f"paths: {'no grid trains' if not fit else 'give d_sae, as several widths have'} {what}")
        found += fit
    return found


def _untrainable(grid: GridConfig) -> Iterator[Fault]:
    """What keeps the training config of one of a grid's SAEs from being built."""
    own = {"architecture", "d_in", "d_sae", *map(level_key, grid.architectures)}
    for name in own & set(grid.options):
        yield Fault(("options", name), "is said by architectures, levels and d_sae")
    for i, level in enumerate(grid.levels):
        if level >= min(grid.widths):
            yield Fault(("levels", i), f"a target L0 of {level} needs more than {min(grid.widths)} features")
    options = {k: v for k, v in grid.options.items() if k not in own}
    for architecture in grid.architectures:
        kind, width = ARCHITECTURES[architecture], max(grid.widths)
        try:
            kind.model_validate(options | {level_key(architecture): 1, "d_in": 1, "d_sae": width})
        except ValidationError as error:
            for fault in faults_in(error, kind):
                yield Fault(("options", *fault.where), f"{fault.what} (of {architecture})")


def misfits(study: "StudyConfig") -> list[Fault]:
    """What is wrong between the sections of a study whose sections are right."""
    return [*_unresolved(study), *_unnamed(study), *_unscored(study), *_too_few(study)]


def _unresolved(study: "StudyConfig") -> Iterator[Fault]:
    """References that stand for nothing, in sections that know of none."""
    source = study.text.corpus.source
    try:
        if source != EMBEDDED:
            parse_reference(source)
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
    for i, key in enumerate(keys):
        if key in keys[:i]:
            yield Fault(("models", i), f"another model is called {key} too: give it a `name`")
    names = [s.name for s in saes_of(study)]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        yield Fault(("models",), f"grids name the same SAE more than once: {', '.join(twice)}")
    for i, model in enumerate(study.models):
        for j, path in enumerate(model.paths):
            try:
                path_saes(study, model, path)
            except ValueError as error:
                yield Fault(("models", i, "paths", j), str(error))


def _unscored(study: "StudyConfig") -> Iterator[Fault]:
    """Names of scores that a study cannot compute, or does not."""
    computed, chosen = that_read("effect", "lens"), study.selection.criteria
    for i, name in enumerate(chosen):
        if name not in computed:
            why = "needs a written concept" if name in that_read("concept") else "is no criterion of an effect"
            yield Fault(("selection", "criteria", i), f"{name!r} {why}. {nearest(name, computed)}")
    steered = any(s.steer for s in saes_of(study))
    known = (*chosen, *that_read("nothing"))
    for i, arm in enumerate(study.steering.arms if steered else ()):
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
    if study.training.batch > rows:
        yield Fault(("training", "batch"), f"{study.training.batch} tokens a step, but the text has {rows}")
    least = 2 * windows.radius + 2
    if windows.radius < 0 or text.context < least:
        what = f"a window of radius {windows.radius} does not fit into contexts of {text.context} tokens"
        yield Fault(("text", "context"), f"{what}; give at least {least} or a smaller interp.windows.radius")
    for i, model in enumerate(study.models):
        for j, path in enumerate(model.paths):
            if study.matching.fold == "theta" and not ARCHITECTURES[path.architecture].has_threshold:
                what = f"{path.architecture} has no thresholds to fold by (matching.fold: theta). Nearest: fold mean"
                yield Fault(("models", i, "paths", j, "architecture"), what)
    if isinstance(study.matching.reject, float) and study.matching.reject <= 0:
        yield Fault(("matching", "reject"), "a reject cost must be positive")
    if not any(s.steer for s in saes_of(study)):
        return
    if study.interp.n_scored < FEWEST:
        yield Fault(("interp", "n_scored"), f"steering chooses among tested features: at least {FEWEST}")
    for i, arm in enumerate(study.steering.arms):
        if arm.random is not None and arm.random < FEWEST:
            what = f"an SAE's score needs at least {FEWEST} features drawn at random, not {arm.random}"
            yield Fault(("steering", "arms", i, "random"), what)
