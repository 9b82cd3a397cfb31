"""Where everything of a run lies; with store/folders.py the only module that knows the names of saelab's files.

run/
  study.yaml  names.json  format.json  ledger.sqlite  results.json  summary.json  report.html
  judges/                     calibrations; anchors/; replies.sqlite: the replies of a paid judge
  tokens/<lm>/<part>/         packed text (tokens.safetensors, manifest.json)
  activations/<lm>/<site>/    shards, moments.safetensors and their manifest
  saes/<sae>/                 native SAE folder
  adopted/<sae>.json          of an SAE that was not trained here: whether it is scored, and what its reading was worth
  training/<lm>.<site>/       metrics.parquet of the SAEs that were trained together
  interp/<sae>/               fidelity.json  features.parquet  contexts.parquet  evaluations.parquet
  interp/<sae>/material/      manifest.json  text.parquet  features-*.parquet: all that is shown of every feature
  readings/<lm>/<reading>/    activations that the evaluations share, <site>.safetensors
  saebench/<kind>/            results in SAEBench's layout, <sae>_custom_sae_eval_results.json
  selection/<sae>/            effects.parquet
  instrument/<lm>.<site>/     as a gate's folder, below
  steering/<sae>/             manifest.json  texts/features.*.parquet  outcomes.parquet  readings.parquet
  ratings/<sae>/              manifest.json  generations.parquet  judgements.parquet  utility.parquet
  human/                      shown/<set>.parquet: what people are shown; answers/<rater>.jsonl; agreement.parquet
  matching/<a>--<b>/          matching.parquet  quality.json  paths.parquet (end to end)
  stats/                      saes.parquet  steered.parquet  agreement.parquet  selection.parquet  features.parquet

gate/ (of one site, anywhere)
  manifest.json  tokens/  activations/<site>/  texts/<step>.parquet  features.parquet  instrument.json
  texts/<step>.read.parquet, judges/replies.sqlite: where the reader of texts is a language model

A file is a `Table` or a `Record` (artefacts.py) or a plain path. Building a folder's class opens and creates nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from saelab.core.errors import UserError
from saelab.store.artefacts import Record, Table
from saelab.store.folders import (
    METRICS,
    HumanFolder,
    InstrumentFolder,
    InterpFolder,
    MatchingFolder,
    RatingsFolder,
    SelectionFolder,
    StatsFolder,
    SteeringFolder,
)

FORMAT = 2  # of a run folder; runs from before it was written down are 0


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study.yaml"

    @property
    def names(self) -> Record:
        """What the names in the tables mean."""
        return Record(self.root / "names.json")

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def results(self) -> Record:
        """What is a function of the study alone."""
        return Record(self.root / "results.json")

    @property
    def summary(self) -> Record:
        return Record(self.root / "summary.json")

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def replies(self) -> Path:
        """The reply cache of a paid judge."""
        return self.root / "judges" / "replies.sqlite"

    def judge(self, lm: str) -> Record:
        """The calibration of the embedded judge for a language model."""
        return Record(self.root / "judges" / f"{lm}.json")

    def anchors(self, moment: str) -> Record:
        """The judge's anchors, at the start or the end."""
        return Record(self.root / "judges" / "anchors" / f"{moment}.json")

    def tokens(self, lm: str) -> Path:
        return self.root / "tokens" / lm

    def activations(self, lm: str) -> Path:
        return self.root / "activations" / lm

    @property
    def saes(self) -> Path:
        return self.root / "saes"

    def sae(self, name: str) -> Path:
        return self.saes / name

    def adopted(self, name: str) -> Record:
        """Whether an SAE that exists is scored, and what its reading was worth."""
        return Record(self.root / "adopted" / f"{name}.json")

    def training(self, name: str) -> Path:
        """Of the SAEs of a site: `<lm>.<site>`."""
        return self.root / "training" / name

    @property
    def metrics(self) -> list[Table]:
        return [Table(p) for p in sorted((self.root / "training").glob(f"*/{METRICS}"))]

    def interp(self, sae: str) -> InterpFolder:
        return InterpFolder(self.root / "interp" / sae)

    def readings(self, lm: str) -> Path:
        return self.root / "readings" / lm

    @property
    def saebench(self) -> Path:
        return self.root / "saebench"

    def selection(self, sae: str) -> SelectionFolder:
        return SelectionFolder(self.root / "selection" / sae)

    def steering(self, sae: str) -> SteeringFolder:
        return SteeringFolder(self.root / "steering" / sae)

    def ratings(self, sae: str) -> RatingsFolder:
        return RatingsFolder(self.root / "ratings" / sae)

    @property
    def human(self) -> HumanFolder:
        return HumanFolder(self.root / "human")

    def instrument(self, lm: str, site: str) -> InstrumentFolder:
        return InstrumentFolder(self.root / "instrument" / f"{lm}.{site}")

    def matching(self, first: str, second: str) -> MatchingFolder:
        return MatchingFolder(self.root / "matching" / f"{first}--{second}")

    @property
    def stats(self) -> StatsFolder:
        return StatsFolder(self.root / "stats")

    @property
    def format(self) -> int:
        """The format of the folder's files; 0 for runs from before it was written down."""
        record = Record(self.root / "format.json")
        return int(record.read().get("format", 0)) if record.exists else 0

    def check_writable(self) -> None:
        """Raise `UserError` where a run of another format has begun here."""
        if self.ledger.exists() and self.format != FORMAT:
            older = self.format < FORMAT
            raise UserError(
                f"{self.root} holds a run of the {'older' if older else 'newer'} format {self.format}; "
                f"this saelab goes on with format {FORMAT} only.",
                hint="Give another folder with --out"
                + (f"; `saelab report {self.root}` shows what this one holds." if older else "."),
            )

    def begin(self) -> None:
        """Mark the folder as one of this format, before anything else is written."""
        self.check_writable()
        Record(self.root / "format.json").write({"format": FORMAT})

    def check_readable(self) -> None:
        """Raise `UserError` where a newer saelab wrote the folder. Older ones can be read."""
        if self.format > FORMAT:
            raise UserError(
                f"{self.root} holds a run of the newer format {self.format}; this saelab reads up to {FORMAT}.",
                hint="Use the saelab that wrote it, or a newer one.",
            )
