"""The study file: what is trained, on what, and how it is scored. YAML, validated, unknown keys refused.

A study names models; a model names grids of SAEs (sites x architectures x levels) and the matchings between them; the
other sections are the configs of the stages. Nothing is computed here.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from saelab.activations.harvest import HarvestConfig
from saelab.core.config import Config
from saelab.core.errors import UserError, nearest
from saelab.core.sites import parse_site
from saelab.interp.run import InterpConfig
from saelab.interp.suite.config import SuiteConfig
from saelab.judges.catalogue import JudgeConfig
from saelab.matching.run import MatchConfig
from saelab.saes.catalogue import ARCHITECTURES
from saelab.selection.criteria.catalogue import that_read
from saelab.selection.run import SelectionConfig
from saelab.steering.config import UtilityConfig
from saelab.text.corpora import CorpusConfig
from saelab.training.config import TrainingConfig


def _known(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}; {nearest(name, ARCHITECTURES)}")
    return name


Architecture = Annotated[str, AfterValidator(_known)]


class TextConfig(Config):
    """The text activations are harvested from, and the text held out for scores."""

    corpus: CorpusConfig = CorpusConfig()
    context: int = Field(default=128, ge=8, description="Tokens per context, BOS included.")
    train_contexts: int = Field(ge=1, description="Contexts to train on.")
    held_out_contexts: int = Field(ge=1, description="Contexts of other documents, for scores.")


class GridConfig(Config):
    """SAEs at some sites: every architecture at every level, width and training seed."""

    sites: tuple[str, ...] = Field(min_length=1, description="Such as resid_post.15.")
    architectures: tuple[Architecture, ...] = Field(min_length=1, description="Which SAEs.")
    levels: tuple[int, ...] = Field(min_length=1, description="Target L0 (k for the TopK family).")
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
    def _sites_parse_and_widths_are_positive(self) -> "GridConfig":
        for site in self.sites:
            parse_site(site)
        if not self.widths or min(self.widths) < 1:
            raise ValueError("d_sae must be a positive number or a list of them")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """All widths."""
        return (self.d_sae,) if isinstance(self.d_sae, int) else self.d_sae


class PathConfig(Config):
    """Features followed from site to site: one SAE of each of these sites, matched pairwise in order."""

    architecture: Architecture
    level: int
    sites: tuple[str, ...] = Field(min_length=2)
    d_sae: int | None = Field(default=None, description="Which width, where grids have several.")
    seed: int = Field(default=0, description="Which training run.")


class ModelConfig(Config):
    """One language model and what is done with it."""

    lm: str = Field(description="Short name or reference of the language model.")
    name: str | None = Field(default=None, description="How it is called in tables; by default the end of `lm`.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Type in which the LM runs; auto: bfloat16 where the machine multiplies it."
    )
    template: str | None = Field(
        default=None, description="How a model without a chat template is asked: a text that holds {instruction}."
    )
    grids: tuple[GridConfig, ...] = Field(min_length=1)
    paths: tuple[PathConfig, ...] = ()

    @property
    def key(self) -> str:
        """A name fit for a folder."""
        return self.name or self.lm.split("@")[0].rstrip("/").split("/")[-1].split("!")[-1].split("#")[0]


class ResourcesConfig(Config):
    """What a cell asks of a cluster (processors are asked for by the number of threads). No part of any result."""

    memory_gb: float = Field(default=4.0, gt=0, description="Memory of one cell in GiB.")
    gpus: float = Field(default=0.0, ge=0, description="Accelerators of one cell; a fraction shares one.")


class StudyConfig(Config):
    """A whole study."""

    name: str = Field(description="What the study is called.")
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
    judge: JudgeConfig = Field(default=JudgeConfig(), description="Who judges interpretability and steered texts.")
    instructions: str | None = Field(
        default=None, description="A file of instructions; by default the forty that are shipped."
    )
    matching: MatchConfig = MatchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    resamples: int = Field(default=2000, ge=100, description="Bootstrap resamples and permutations of the statistics.")

    @model_validator(mode="after")
    def _saes_are_named_once_and_paths_exist(self) -> "StudyConfig":
        names = [s.name for s in saes_of(self)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"grids name the same SAE more than once: {', '.join(twice)}")
        for model in self.models:
            for path in model.paths:
                path_saes(self, model, path)
        return self

    @model_validator(mode="after")
    def _arms_are_scored(self) -> "StudyConfig":
        scored = (*self.selection.criteria, *that_read("nothing"))
        for arm in self.steering.arms if any(s.steer for s in saes_of(self)) else ():
            if arm.criterion is not None and arm.criterion not in scored:
                raise ValueError(f"an arm chooses by {arm.criterion}, which selection.criteria does not list")
        return self


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


def check_widths(spec: SaeSpec) -> None:
    """A level must be smaller than the dictionary."""
    if spec.level >= spec.d_sae:
        raise UserError(f"{spec.name}: a target L0 of {spec.level} needs more than {spec.d_sae} features.")
