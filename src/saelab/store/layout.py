"""Where everything of a run lies: the only module that knows file names.

run/
  study.yaml  ledger.sqlite  results.json  summary.json  report.html
  judges/                     calibrations; replies.sqlite: the replies of a paid judge
  tokens/                     packed text (tokens.safetensors, manifest.json)
  activations/<site>/         shards and their manifest
  saes/<sae>/                 native SAE folder; saes/<site>.training.parquet beside it
  interp/<sae>/               fidelity.json  features.parquet  contexts.parquet  evaluations.parquet
  readings/<lm>/<reading>/    activations that the evaluations share, <site>.safetensors
  saebench/<kind>/            results in SAEBench's layout, <sae>_custom_sae_eval_results.json
  selection/<sae>/            effects.parquet
  steering/<sae>/             generations.parquet  judgements.parquet  utility.parquet
  matching/<a>--<b>/          matching.parquet  quality.json  paths.parquet (end to end)
  stats/                      saes.parquet  agreement.parquet  selection.parquet  features.parquet
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Building a path creates nothing."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def results(self) -> Path:
        """What is a function of the study alone."""
        return self.root / "results.json"

    @property
    def replies(self) -> Path:
        """The reply cache of a paid judge."""
        return self.root / "judges" / "replies.sqlite"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def tokens(self, lm: str) -> Path:
        return self.root / "tokens" / lm

    def activations(self, lm: str) -> Path:
        return self.root / "activations" / lm

    def sae(self, name: str) -> Path:
        return self.root / "saes" / name

    @property
    def saes(self) -> Path:
        return self.root / "saes"

    def training(self, name: str) -> Path:
        """name: `<lm>.<site>`; a site's SAEs are trained together."""
        return self.root / "training" / name

    def judge(self, lm: str) -> Path:
        return self.root / "judges" / f"{lm}.json"

    def interp(self, sae: str) -> Path:
        return self.root / "interp" / sae

    def evaluations(self, sae: str) -> Path:
        """The table of an SAE's results in the suite."""
        return self.interp(sae) / "evaluations.parquet"

    def readings(self, lm: str) -> Path:
        return self.root / "readings" / lm

    @property
    def saebench(self) -> Path:
        return self.root / "saebench"

    def selection(self, sae: str) -> Path:
        return self.root / "selection" / sae

    def steering(self, sae: str) -> Path:
        return self.root / "steering" / sae

    def matching(self, first: str, second: str) -> Path:
        return self.root / "matching" / f"{first}--{second}"

    @property
    def stats(self) -> Path:
        return self.root / "stats"
