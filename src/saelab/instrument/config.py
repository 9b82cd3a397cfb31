"""How much the instrument writes and reads: of a gate alone, and of a study's sites.

Frozen configs with the sizes that both share. What a size costs is in `study/costs.py`. No model and no file here.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from saelab.core.config import Config
from saelab.core.errors import nearest
from saelab.instrument.outcomes import LEAST_REFERENCES
from saelab.judges import lexical

READERS = ("embedding", lexical.NAME)
LEAST_TEXTS = 16  # of a class, for its lift to be more than luck
USUAL_DOSE = 0.3  # nats: where lift was largest at three sites of SmolLM2; taken where dev shows none


class Sizes(Config):
    """What every use of the instrument has in common."""

    doses: tuple[float, ...] = Field(default=(0.1, 0.3, 0.7, 1.5), min_length=1, description="KL per token, in nats.")
    prompts: int = Field(default=2, ge=1, le=4, description="Instructions, and as many openings.")
    dev_copies: int = Field(default=2, ge=1, description="Texts of a class per prompt and dose, to choose the dose.")
    test_copies: int = Field(default=4, ge=1, description="Further texts of a class per prompt, at that dose.")
    feature_copies: int = Field(default=1, ge=1, description="Texts of a feature per prompt.")
    unsteered_copies: int = Field(default=20, ge=1, description="Unsteered texts per prompt.")
    new_tokens: int = Field(default=24, ge=4, description="Tokens of a text, at most.")
    temperature: float = Field(default=0.7, ge=0, description="Sampling temperature of all texts; 0 is greedy.")
    batch_size: int = Field(default=256, ge=1, description="Texts written together.")
    contexts: int = Field(default=640, ge=8, description="Contexts of ordinary text that features are read from.")
    probe_contexts: int = Field(default=6, ge=1, description="Contexts on which KL is measured, of 48 tokens.")
    class_texts: int = Field(default=64, ge=16, description="Texts of a class: half steer, half read.")
    seed: int = Field(default=0, description="Names every draw.")

    @model_validator(mode="after")
    def _enough(self) -> "Sizes":
        if 2 * self.prompts * self.test_copies < LEAST_TEXTS:
            raise ValueError(f"a class needs at least {LEAST_TEXTS} texts: 2 x prompts x test_copies")
        if self.prompts * self.unsteered_copies < LEAST_REFERENCES:
            raise ValueError(
                f"scores need at least {LEAST_REFERENCES} unsteered texts of a kind: prompts x unsteered_copies"
            )
        return self

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

    reader: str = Field(
        default=READERS[0],
        description="What `described` reads by: `embedding` (of sentences), or `lexical` (words in common) where that "
        "cannot be had.",
    )
    classes: Literal["embedded", "none"] | tuple[Path, ...] = Field(
        default="embedded",
        description="The gate's known classes: six sets of the embedded corpus, files of texts (one per class, at "
        "least five; or one table with `label`), or none (the study is then not gated).",
    )
    label: str | None = Field(default=None, description="Column of labels in the one table of `classes`.")
    strength: Literal["site", "sae", "feature"] = Field(
        default="site",
        description="What the dose holds for: the median feature of all SAEs of the site (one strength), that of each "
        "SAE, or each feature.",
    )
    n_dev: int = Field(default=32, ge=3, description="Features, of all SAEs of a site, that choose its dose.")
    n_random: int = Field(default=64, ge=3, description="Features of each random dictionary.")

    @field_validator("reader")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in READERS:
            raise ValueError(f"there is no reader {name!r}; {nearest(name, READERS)}")
        return name


def gate_texts(config: InstrumentConfig, dictionaries: int) -> int:
    """Texts written for the gate of a site, its dose and its random dictionaries, with six classes."""
    classes = 6 * (len(config.doses) * config.dev_copies + config.test_copies)
    features = len(config.doses) * config.n_dev + dictionaries * config.n_random * config.feature_copies
    return 2 * config.prompts * (classes + features + config.unsteered_copies)
