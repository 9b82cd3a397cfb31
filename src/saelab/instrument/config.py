"""How much the instrument writes and reads: of a gate alone, and of a study's sites.

Frozen configs with the sizes that both share. What a size costs is in `study/costs.py`. No model and no file here.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from saelab.core.config import Config, Fault, Faults
from saelab.core.errors import nearest
from saelab.instrument.outcomes import LEAST_REFERENCES
from saelab.judges import lexical
from saelab.judges.catalogue import JUDGES, JudgeConfig

READERS = ("embedding", lexical.NAME)
# AxBench's for Gemma 2 2B (arXiv 2501.17148): multiples of a feature's largest activation.
FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0)
LEAST_TEXTS = 16  # of a class, for its lift to be more than luck
USUAL_DOSE = 0.3  # nats: where lift was largest at three sites of SmolLM2; taken where dev shows none


class Sizes(Config):
    """What every use of the instrument has in common."""

    doses: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.1, 0.3, 0.7, 1.5), min_length=1, description="KL per token, in nats."
    )
    prompts: int = Field(default=2, ge=1, le=4, description="Instructions, and as many openings.")
    dev_copies: int = Field(default=2, ge=1, description="Texts of a class per prompt and dose, to choose the dose.")
    test_copies: int = Field(default=4, ge=1, description="Further texts of a class per prompt, at that dose.")
    feature_copies: int = Field(default=1, ge=1, description="Texts of a feature per prompt.")
    unsteered_copies: int = Field(default=20, ge=1, description="Unsteered texts per prompt.")
    new_tokens: int = Field(default=24, ge=4, description="Tokens of a text, at most.")
    temperature: float = Field(
        default=0.7, gt=0, description="Sampling temperature of all texts; greedy ones would be copies of each other."
    )
    batch_size: int = Field(default=256, ge=1, description="Texts written together.")
    contexts: int = Field(default=640, ge=8, description="Contexts of ordinary text that features are read from.")
    probe_contexts: int = Field(default=6, ge=1, description="Contexts on which KL is measured, of 48 tokens.")
    class_texts: int = Field(default=64, ge=16, description="Texts of a class: half steer, half read.")
    seed: int = Field(default=0, description="Names every draw.")
    reader: str | JudgeConfig = Field(
        default=READERS[0],
        description="What `described` reads by: `embedding` (of sentences), `lexical` (words in common) where that "
        "cannot be had, or a language model, `local:LM` or `openai:MODEL` (with the settings of `judge`, where it has "
        "any).",
    )
    readers_asked: int = Field(
        default=7, ge=1, description="Wrong features that a language model is asked of a text, beside its own."
    )

    @field_validator("reader")
    @classmethod
    def _known(cls, reader: str | JudgeConfig) -> str | JudgeConfig:
        name = reader if isinstance(reader, str) else reader.name
        try:
            known = reader in READERS or bool(JudgeConfig(name=name).kind.takes)
        except ValidationError:
            known = False
        if not known:
            shown = ", ".join((*READERS, *(f"{k.name}:{k.takes}" for k in JUDGES.values() if k.takes)))
            raise ValueError(f"there is no reader {name!r}; it is one of {shown}. {nearest(name, READERS)}")
        return reader

    @model_validator(mode="after")
    def _enough(self) -> "Sizes":
        if len(set(self.doses)) < len(self.doses):
            raise ValueError("doses holds a dose twice")
        if 2 * self.prompts * self.test_copies < LEAST_TEXTS:
            raise ValueError(f"a class needs at least {LEAST_TEXTS} texts: 2 x prompts x test_copies")
        if self.prompts * self.unsteered_copies < LEAST_REFERENCES:
            raise ValueError(
                f"scores need at least {LEAST_REFERENCES} unsteered texts of a kind: prompts x unsteered_copies"
            )
        return self

    @property
    def judge(self) -> JudgeConfig | None:
        """The language model that reads, None where none does."""
        if isinstance(self.reader, JudgeConfig):
            return self.reader
        return JudgeConfig(name=self.reader) if ":" in self.reader else None

    @property
    def settings(self) -> dict[str, Any]:
        """What texts, readings and scores depend on, as plain values."""
        found = self.model_dump(mode="json")
        if self.judge is None:
            del found["readers_asked"]
        else:
            found["reader"] = self.judge.identity["judge"]
        return found

    @property
    def texts_per_feature(self) -> int:
        """How many texts are written with one feature."""
        return 2 * self.prompts * self.feature_copies


class GateConfig(Sizes):
    """The gate of one site by itself (`saelab instrument`)."""

    n_features: int = Field(default=64, ge=3, description="Features of the random dictionary, and of the SAE.")
    width: int = Field(default=2048, ge=16, description="Features in the random dictionary; an SAE's own beside one.")
    l0: int = Field(default=32, ge=1, description="Its active features; an SAE's own beside one.")
    context: int = Field(default=128, ge=32, description="Tokens per context.")


class InstrumentConfig(Sizes):
    """The instrument in a study: one gate and one dose per site, a random dictionary per width and level."""

    classes: Literal["embedded", "none"] | tuple[Path, ...] = Field(
        default="embedded",
        description="The gate's known classes: six sets of the embedded corpus, files of texts (one per class, at "
        "least five; or one table with `label`), or none (the study is then not gated).",
    )
    label: str | None = Field(default=None, description="Column of labels in the one table of `classes`.")
    strength: Literal["site", "sae", "feature", "feature_dev", "factors"] = Field(
        default="site",
        description="How far a feature is moved. By the dose of the site: as the median feature of all its SAEs "
        "(`site`, one strength), of its own SAE (`sae`), or as it takes itself (`feature`). Or by the dose that is "
        "best for it on its own dev texts (`feature_dev`), or a factor times its largest activation (`factors`).",
    )
    factors: tuple[float, ...] = Field(
        default=FACTORS, min_length=1, description="Grid of `strength: factors`; dev of SAEs of the site chooses."
    )
    n_dev: int = Field(default=32, ge=3, description="Features, 8 an SAE of a site, that choose its dose.")
    n_random: int = Field(default=64, ge=3, description="Features of each random dictionary.")

    @field_validator("classes", mode="before")
    @classmethod
    def _one_file_is_a_list_of_one(cls, classes: Any) -> Any:
        return (classes,) if isinstance(classes, str) and classes not in ("embedded", "none") else classes

    @model_validator(mode="after")
    def _label_is_of_a_table(self) -> "InstrumentConfig":
        if self.label is not None and isinstance(self.classes, str):
            raise Faults([Fault(("label",), "is a column of the table that `classes` names; here it names none")])
        return self

    @field_validator("factors")
    @classmethod
    def _positive(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(factors)) < len(factors) or min(factors) <= 0:
            raise ValueError("factors must be distinct and positive")
        return factors

    @property
    def settings(self) -> dict[str, Any]:
        """What texts, readings and scores depend on, as plain values."""
        found = super().settings
        if self.strength != "factors":
            del found["factors"]
        return found


def gate_texts(config: InstrumentConfig, dictionaries: int) -> int:
    """Texts written for the gate of a site, its dose and its random dictionaries, with six classes."""
    return sum(_gate_sets(config, dictionaries)) + _unsteered(config)


def steered_texts(config: InstrumentConfig, features: int) -> int:
    """Texts written with that many features of an SAE, those of their own dev included."""
    own = len(config.doses) * config.dev_copies if config.strength == "feature_dev" else 0
    return 2 * config.prompts * features * (config.feature_copies + own)


def questions(config: InstrumentConfig, dictionaries: int, features: int, saes: int) -> int:
    """What a reader that is asked is asked at a site: about the texts of every set, and the unsteered ones by each."""
    sets = [*_gate_sets(config, dictionaries), *[steered_texts(config, features)] * saes]
    asked = [min(6, config.readers_asked + 1), *[config.readers_asked + 1] * (len(sets) - 1)]
    return sum(each * (texts + _unsteered(config)) for each, texts in zip(asked, sets, strict=True))


def _gate_sets(config: InstrumentConfig, dictionaries: int) -> list[int]:
    """Texts of the classes, of the features that choose the dose, and of each random dictionary."""
    classes = 6 * (len(config.doses) * config.dev_copies + config.test_copies)
    grid = config.factors if config.strength == "factors" else config.doses
    return [
        2 * config.prompts * classes,
        2 * config.prompts * len(grid) * config.n_dev,
        *[steered_texts(config, config.n_random)] * dictionaries,
    ]


def _unsteered(config: InstrumentConfig) -> int:
    return 2 * config.prompts * config.unsteered_copies
