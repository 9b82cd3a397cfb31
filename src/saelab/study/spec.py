"""The study file: what is trained, on what, and how it is scored. YAML, validated, unknown keys refused.

A study names models; a model names grids of SAEs (sites x architectures x levels) and the matchings between them; the
other sections are the configs of the stages. Nothing is computed here.
"""

from typing import Literal

from pydantic import Field, model_validator

from saelab.activations.harvest import HarvestConfig
from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.interp.run import InterpConfig
from saelab.lm.sites import parse_site
from saelab.matching.run import MatchConfig
from saelab.selection.run import SelectionConfig
from saelab.steering.config import UtilityConfig
from saelab.text.corpora import CorpusConfig
from saelab.training.config import TrainingConfig

Architecture = Literal["relu", "gated", "topk", "batchtopk", "jumprelu", "matryoshka"]


class TextConfig(Config):
    """The text activations are harvested from, and the text held out for scores."""

    corpus: CorpusConfig = CorpusConfig()
    context: int = Field(default=128, ge=8, description="Tokens per context, BOS included.")
    train_contexts: int = Field(ge=1, description="Contexts to train on.")
    held_out_contexts: int = Field(ge=1, description="Contexts of other documents, for scores.")


class GridConfig(Config):
    """SAEs at some sites: every architecture at every level."""

    sites: tuple[str, ...] = Field(min_length=1, description="Such as resid_post.15.")
    architectures: tuple[Architecture, ...] = Field(min_length=1, description="Which SAEs.")
    levels: tuple[int, ...] = Field(min_length=1, description="Target L0 (k for the TopK family).")
    d_sae: int = Field(ge=1, description="Features per SAE.")
    steer: bool = Field(
        default=True, description="Whether features are selected and steered with, or only trained and scored."
    )
    options: dict[str, float | int | str] = Field(
        default_factory=dict,
        description="Other settings of their training configs, such as lr, lr_decay or preset: paper.",
    )

    @model_validator(mode="after")
    def _sites_parse(self) -> "GridConfig":
        for site in self.sites:
            parse_site(site)
        return self


class PathConfig(Config):
    """Features followed from site to site: one SAE of each of these sites, matched pairwise in order."""

    architecture: Architecture
    level: int
    sites: tuple[str, ...] = Field(min_length=2)


class ModelConfig(Config):
    """One language model and what is done with it."""

    lm: str = Field(description="Short name or reference of the language model.")
    name: str | None = Field(default=None, description="How it is called in tables; by default the end of `lm`.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Type in which the LM runs; auto: bfloat16 where the machine multiplies it."
    )
    grids: tuple[GridConfig, ...] = Field(min_length=1)
    paths: tuple[PathConfig, ...] = ()

    @property
    def key(self) -> str:
        """A name fit for a folder."""
        return self.name or self.lm.split("@")[0].rstrip("/").split("/")[-1].split("!")[-1].split("#")[0]


class StudyConfig(Config):
    """A whole study."""

    name: str = Field(description="What the study is called.")
    seed: int = Field(default=0, description="The root of all randomness.")
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    text: TextConfig
    harvest: HarvestConfig = HarvestConfig()
    training: TrainingConfig = TrainingConfig()
    interp: InterpConfig = InterpConfig()
    selection: SelectionConfig = SelectionConfig()
    steering: UtilityConfig = UtilityConfig()
    instructions: str | None = Field(
        default=None, description="A file of instructions; by default the forty that are shipped."
    )
    matching: MatchConfig = MatchConfig()
    resamples: int = Field(default=2000, ge=100, description="Bootstrap resamples and permutations of the statistics.")

    @model_validator(mode="after")
    def _saes_are_named_once_and_paths_exist(self) -> "StudyConfig":
        names = [s.name for s in saes_of(self)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"grids name the same SAE more than once: {', '.join(twice)}")
        for model in self.models:
            for path in model.paths:
                for site in path.sites:
                    wanted = sae_name(self, model, path.architecture, path.level, site)
                    if wanted not in names:
                        raise ValueError(f"paths: no grid trains {wanted}")
        return self


class SaeSpec(Config):
    """One SAE of a study, by its coordinates."""

    name: str
    model: ModelConfig
    architecture: Architecture
    level: int
    site: str
    d_sae: int
    steer: bool
    options: dict[str, float | int | str]


def sae_name(study: StudyConfig, model: ModelConfig, architecture: str, level: int, site: str) -> str:
    """`topk.l0_32.resid_post.15`; the model's key stands in front where there are several models."""
    own = f"{architecture}.l0_{level}.{parse_site(site)}"
    return own if len(study.models) == 1 else f"{model.key}.{own}"


def saes_of(study: StudyConfig) -> list[SaeSpec]:
    """All SAEs of a study, in the order of the file."""
    return [
        SaeSpec(
            name=sae_name(study, model, architecture, level, site),
            model=model,
            architecture=architecture,
            level=level,
            site=str(parse_site(site)),
            d_sae=grid.d_sae,
            steer=grid.steer,
            options=grid.options,
        )
        for model in study.models
        for grid in model.grids
        for site in grid.sites
        for architecture in grid.architectures
        for level in grid.levels
    ]


def check_widths(spec: SaeSpec) -> None:
    """A level must be smaller than the dictionary."""
    if spec.level >= spec.d_sae:
        raise UserError(f"{spec.name}: a target L0 of {spec.level} needs more than {spec.d_sae} features.")
