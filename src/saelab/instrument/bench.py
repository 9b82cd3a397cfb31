"""The bench: the steps that every use of the instrument is made of, over texts that are kept.

A step writes a set's texts at a dose (or takes up those of a former run), reads each once with the readers of all
features of its set, and scores it beside the unsteered texts of the bench. Knows no file: the caller keeps the texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from saelab.core.progress import SILENT, Progress
from saelab.instrument.config import Sizes
from saelab.instrument.controls import lift_of
from saelab.instrument.dose import Chosen, Curve, Probe, choose, curve
from saelab.instrument.features import SiteText
from saelab.instrument.outcomes import UNSTEERED, by_feature
from saelab.instrument.prompts import prompts_of
from saelab.instrument.readers import HEADLINE, OUTCOMES, Features, described, read_back
from saelab.instrument.texts import Desk, matrix_of, texts_of
from saelab.judges.embedding import Embedder
from saelab.lm.model import LanguageModel

# Gives the table of a named set of texts: from a former run, or by calling what writes it.
Keep = Callable[[str, Callable[[], pl.DataFrame]], pl.DataFrame]

PROBED = 48  # tokens of a context that KL is measured on


def equipped(
    sizes: Sizes, lm: LanguageModel, text: SiteText, embed: Embedder, instructions: Sequence[str] = ()
) -> tuple[Desk, Probe]:
    """What texts are written at and what KL is measured with at the site of a text. instructions: instead of ours."""
    n = text.packed.n_contexts
    spread = torch.linspace(0, n - 1, min(sizes.probe_contexts, n)).long()
    probe = Probe.over(lm, text.site, text.packed.tokens[spread, :PROBED])
    desk = Desk(
        lm=lm,
        site=text.site,
        prompts=prompts_of(lm, each=sizes.prompts, seed=sizes.seed, instructions=instructions),
        embed=embed,
        norm=probe.norm,
        new_tokens=sizes.new_tokens,
        temperature=sizes.temperature,
        batch_size=sizes.batch_size,
        seed=sizes.seed,
    )
    return desk, probe


@dataclass(frozen=True)
class Measured:
    """A set's texts (`table`, the unsteered ones last), its readings by outcome, and their tables by feature."""

    name: str
    table: pl.DataFrame
    values: dict[str, Float[np.ndarray, "N K"]]
    tables: dict[str, pl.DataFrame]

    @property
    def steered(self) -> pl.DataFrame:
        """The texts without the unsteered ones."""
        return self.table.filter(pl.col("owner") != UNSTEERED)


class Bench:
    """A desk and a probe at one site, with the unsteered texts that all scores are relative to."""

    def __init__(self, sizes: Sizes, desk: Desk, probe: Probe, keep: Keep, progress: Progress = SILENT):
        self.sizes, self.desk, self.probe, self.keep, self.progress = sizes, desk, probe, keep, progress
        jobs = desk.jobs([UNSTEERED], 0.0, 0.0, range(sizes.unsteered_copies))
        nowhere = np.zeros((1, desk.lm.d_model))
        self.unsteered = keep("unsteered", lambda: desk.write("unsteered", jobs, nowhere, progress))
        self._curves: dict[str, Curve] = {}

    def dev(self, name: str, features: Features, copies: Sequence[int]) -> tuple[Chosen, list[dict[str, Any]]]:
        """The dose that a set's lift chooses, and its dose response: a row per dose and outcome."""
        lifts, rows = {}, []
        many = range(len(features))
        jobs = [j for d in self.sizes.doses for j in self.desk.jobs(many, d, self.distance(name, features, d), copies)]
        # All doses in one batch: a step of few texts takes nearly as long as one of many.
        written = self.keep(
            f"{name}.dev", lambda: self.desk.write(f"{name}.dev", jobs, features.directions, self.progress)
        )
        for dose in self.sizes.doses:
            found = self.read(f"{name}.dev", written.filter(pl.col("dose") == dose), features)
            texts = found.steered
            for outcome in OUTCOMES:
                control = lift_of(f"{name} dev {dose:g}", outcome, found.tables[outcome], seed=self.sizes.seed)
                rows.append(
                    {"set": name, "dose": dose, "outcome": outcome, "lift": control.value, "low": control.low}
                    | {"high": control.high, "n": control.n, "n_missing": control.n_missing}
                    | {"strength": texts["strength"][0], "share": texts["share"][0]}
                    | {"nll": texts["nll"].mean(), "distinct": texts["distinct"].mean()}
                )
            lifts[dose] = found.tables[HEADLINE]["lift"].fill_null(np.nan).to_numpy()
        return choose(lifts, seed=self.sizes.seed), rows

    def distance(self, name: str, features: Features, dose: float) -> float:
        """How far the median direction of a set has to be moved for a dose, in activation units."""
        if name not in self._curves:
            self._curves[name] = curve(self.probe, features.directions, self.sizes.doses, progress=self.progress)
        return self._curves[name].distance(dose)

    def distances(self, features: Features, dose: float) -> list[float]:
        """How far each direction has to be moved for it to have this dose itself."""
        many = len(features)
        found = curve(self.probe, features.directions, self.sizes.doses, most=many, progress=self.progress)
        return [Curve(found.distances, found.kl[[k]]).distance(dose) for k in range(many)]

    def measured(
        self,
        name: str,
        features: Features,
        dose: float,
        copies: Sequence[int],
        strength: float | Sequence[float],
        *,
        key: str = "",
    ) -> Measured:
        """Write a set's texts (kept under `key`) and read them beside the unsteered ones. strength: of all features, or
        of each.
        """
        each = [float(strength)] * len(features) if isinstance(strength, int | float) else list(strength)
        jobs = [job for k, s in enumerate(each) for job in self.desk.jobs([k], dose, s, copies)]
        written = self.keep(
            f"{key or name}.{dose:g}", lambda: self.desk.write(name, jobs, features.directions, self.progress)
        )
        return self.read(name, written, features)

    def read(self, name: str, written: pl.DataFrame, features: Features) -> Measured:
        """Texts of a set under the readers of all its features."""
        both = pl.concat([written, self.unsteered])
        texts = texts_of(both)
        values = {
            "described": described(matrix_of(both, "vector"), features),
            "read_back": read_back(matrix_of(both, "state"), features),
        }
        return Measured(name, both, values, {outcome: by_feature(v, texts) for outcome, v in values.items()})
