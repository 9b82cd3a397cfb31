"""The folders of one stage's work on one SAE, site or pair: what a run holds of each, and other folders like them.

A folder's class names its files; a file is a `Table` or a `Record` (artefacts.py) or a plain path. Building one opens
and creates nothing. What a file's contents mean is its stage's. `store/layout.RunFolder` says where each lies.
"""

from dataclasses import dataclass
from pathlib import Path

from saelab.store.artefacts import Record, Table

MANIFEST = "manifest.json"
TOKENS = "tokens.safetensors"
MOMENTS = "moments.safetensors"
METRICS = "metrics.parquet"
SHARDS = "shard-*.safetensors"  # all of a folder, as a pattern


def shard_name(number: int) -> str:
    """The file of one shard of activations."""
    return f"shard-{number:05d}.safetensors"


def tensors_name(stem: str) -> str:
    """A file of tensors that is called by a site or by a part of a checkpoint."""
    return f"{stem}.safetensors"


@dataclass(frozen=True)
class MaterialFolder:
    """What is shown of every feature of one SAE."""

    root: Path

    @property
    def manifest(self) -> Record:
        return Record(self.root / MANIFEST)

    @property
    def text(self) -> Table:
        """The tokens of the text that was read, in order."""
        return Table(self.root / "text.parquet")

    def part(self, number: int) -> Table:
        """So many features, in order, a row each."""
        return Table(self.root / f"features-{number:05d}.parquet")


@dataclass(frozen=True)
class InterpFolder:
    """What interpreting one SAE leaves."""

    root: Path

    @property
    def fidelity(self) -> Record:
        return Record(self.root / "fidelity.json")

    @property
    def features(self) -> Table:
        return Table(self.root / "features.parquet")

    @property
    def contexts(self) -> Table:
        return Table(self.root / "contexts.parquet")

    @property
    def evaluations(self) -> Table:
        """The SAE's results in the suite."""
        return Table(self.root / "evaluations.parquet")

    @property
    def material(self) -> MaterialFolder:
        return MaterialFolder(self.root / "material")


@dataclass(frozen=True)
class SelectionFolder:
    """What scoring the features of one SAE leaves."""

    root: Path

    @property
    def effects(self) -> Table:
        return Table(self.root / "effects.parquet")


@dataclass(frozen=True)
class StepsFolder:
    """Texts of the instrument, kept step by step with what was read from them."""

    root: Path

    @property
    def manifest(self) -> Record:
        return Record(self.root / MANIFEST)

    @property
    def texts(self) -> Path:
        return self.root / "texts"

    def step(self, name: str) -> Table:
        return Table(self.texts / f"{name}.parquet")


@dataclass(frozen=True)
class InstrumentFolder(StepsFolder):
    """What the gate of one site leaves: its texts, outcomes by feature, and the gate itself."""

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def activations(self) -> Path:
        return self.root / "activations"

    @property
    def features(self) -> Table:
        return Table(self.root / "features.parquet")

    @property
    def gate(self) -> Record:
        return Record(self.root / "instrument.json")


@dataclass(frozen=True)
class SteeringFolder(StepsFolder):
    """What steering with an SAE's features leaves, as the instrument reads it."""

    @property
    def outcomes(self) -> Table:
        return Table(self.root / "outcomes.parquet")

    @property
    def readings(self) -> Table:
        return Table(self.root / "readings.parquet")


@dataclass(frozen=True)
class RatingsFolder:
    """What evaluating directions by ratings leaves (AxBench)."""

    root: Path

    @property
    def manifest(self) -> Record:
        return Record(self.root / MANIFEST)

    @property
    def generations(self) -> Table:
        return Table(self.root / "generations.parquet")

    @property
    def judgements(self) -> Table:
        return Table(self.root / "judgements.parquet")

    @property
    def utility(self) -> Table:
        return Table(self.root / "utility.parquet")

    @property
    def files(self) -> list[Path]:
        """All files of a finished evaluation."""
        return [self.generations.path, self.judgements.path, self.utility.path, self.manifest.path]


@dataclass(frozen=True)
class HumanFolder:
    """What people are shown of a run's steered texts, what each has answered, and what all answers came to."""

    root: Path

    @property
    def agreement(self) -> Table:
        return Table(self.root / "agreement.parquet")

    def shown(self, name: str) -> Table:
        """The features of one set: what each is about, and how the judges read every text under it."""
        return Table(self.root / "shown" / f"{name}.parquet")

    def answers(self, rater: str) -> Path:
        """One rater's answers, a line each."""
        return self.root / "answers" / f"{rater}.jsonl"


@dataclass(frozen=True)
class ConceptsFolder(RatingsFolder):
    """What a run over written concepts leaves beside the evaluation."""

    @property
    def fit(self) -> Record:
        return Record(self.root / "fit.json")

    @property
    def directions(self) -> Path:
        return self.root / "directions.safetensors"

    @property
    def detection(self) -> Table:
        return Table(self.root / "detection.parquet")

    @property
    def wide(self) -> Table:
        """AxBench's `steering_data`."""
        return Table(self.root / "steering_data.parquet")

    @property
    def calibration(self) -> Record:
        """The cuts of the embedded judge."""
        return Record(self.root / "judge.json")

    @property
    def files(self) -> list[Path]:
        return [self.directions, self.detection.path, *super().files]


@dataclass(frozen=True)
class MatchingFolder:
    """What matching two SAEs leaves."""

    root: Path

    @property
    def matching(self) -> Table:
        return Table(self.root / "matching.parquet")

    @property
    def quality(self) -> Record:
        return Record(self.root / "quality.json")

    @property
    def paths(self) -> Table:
        """Features followed over several steps; only where there are several."""
        return Table(self.root / "paths.parquet")


@dataclass(frozen=True)
class StatsFolder:
    """The tables that are compared and drawn."""

    root: Path

    def table(self, name: str) -> Table:
        """A table by name, such as saes, steered, agreement, arms or features."""
        return Table(self.root / f"{name}.parquet")
