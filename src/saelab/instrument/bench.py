"""The bench: the steps that every use of the instrument is made of, over texts that are kept.

A step writes a set's texts at a dose (or takes up those of a former run), reads each once with the readers of all
features of its set, and scores it beside the unsteered texts of the bench. Knows no file: the caller keeps the texts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from saelab.core.progress import SILENT, Progress
from saelab.instrument.asked import ASKED, AskedReader, matrix_asked
from saelab.instrument.config import Sizes
from saelab.instrument.dose import Chosen, Curve, Probe, choose, curve
from saelab.instrument.features import SiteText
from saelab.instrument.lifts import lift_of
from saelab.instrument.outcomes import UNSTEERED, by_feature
from saelab.instrument.prompts import prompts_of
from saelab.instrument.readers import HEADLINE, OUTCOMES, Features, described, read_back
from saelab.instrument.texts import Desk, Job, matrix_of, texts_of
from saelab.judges.embedding import Embedder
from saelab.lm.model import LanguageModel

# Gives the table of a named set of texts, or of what was answered of them (asked.ASKED): from a former run, or by
# calling what writes it.
Keep = Callable[[str, Callable[[], pl.DataFrame]], pl.DataFrame]
# By what is chosen (a dose, a factor): its dose in nats, and how far all features are moved, or each.
Grid = Mapping[float, tuple[float, float | Sequence[float]]]

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
        nowhere = np.zeros((1, desk.lm.width(desk.site)))
        self.unsteered = keep("unsteered", lambda: desk.write("unsteered", jobs, nowhere, progress))
        self._curves: dict[str, Curve] = {}

    def dev(
        self, name: str, features: Features, copies: Sequence[int], grid: Grid | None = None
    ) -> tuple[Chosen, list[dict[str, Any]]]:
        """What of the grid (by default the doses) a set's lift chooses, and its response: a row each and outcome."""
        lifts, rows, missed = {}, [], []
        if grid is None:
            grid = self.grid(name, features)
            missed = [dose for dose in self.sizes.doses if dose not in grid]  # stand in the response without a lift
        for point, found in self.over(f"{name}.dev", features, copies, grid).items():
            texts, dose = found.steered, grid[point][0]
            for outcome in OUTCOMES:
                lift = lift_of(f"{name} dev {point:g}", outcome, found.tables[outcome], seed=self.sizes.seed)
                rows.append(
                    {"set": name, "dose": dose, "outcome": outcome, "lift": lift.value, "low": lift.low}
                    | {"high": lift.high, "n": lift.n, "n_missing": lift.n_missing}
                    | {"strength": texts["strength"].median(), "share": texts["share"].median()}
                    | {"nll": texts["nll"].mean(), "distinct": texts["distinct"].mean()}
                )
            lifts[point] = found.tables[HEADLINE]["lift"].fill_null(np.nan).to_numpy()
        bare = {"lift": None, "low": None, "high": None, "n": 0, "n_missing": 0, "strength": None, "share": None}
        bare |= {"nll": None, "distinct": None}
        rows += [{"set": name, "dose": dose, "outcome": o} | bare for dose in missed for o in OUTCOMES]
        return choose(lifts, seed=self.sizes.seed), rows

    def grid(self, name: str, features: Features) -> Grid:
        """The doses, each as far as the median direction of a set needs; without those that it has at no distance.

        Raises `UserError` where it has none of them.
        """
        shape = self._curve(name, features)
        found = {dose: (dose, shape.distance(dose)) for dose in self.sizes.doses if shape.reaches(dose)}
        if not found:
            shape.distance(self.sizes.doses[0])  # raises, and says how far was tried
        return found

    def over(self, name: str, features: Features, copies: Sequence[int], grid: Grid) -> dict[float, Measured]:
        """A set measured at every point of a grid."""
        parts = [self._jobs(len(features), dose, copies, strength) for dose, strength in grid.values()]
        # All points in one batch: a step of few texts takes nearly as long as one of many.
        jobs = [job for part in parts for job in part]
        written = self.keep(name, lambda: self.desk.write(name, jobs, features.directions, self.progress))
        each = len(jobs) // len(parts)
        return {
            point: self.read(name, written.slice(i * each, each), features, f"{name}.{point:g}")
            for i, point in enumerate(grid)
        }

    def distance(self, name: str, features: Features, dose: float) -> float:
        """How far the median direction of a set has to be moved for a dose, in activation units."""
        return self._curve(name, features).distance(dose)

    def _curve(self, name: str, features: Features) -> Curve:
        if name not in self._curves:
            self._curves[name] = curve(self.probe, features.directions, self.sizes.doses, progress=self.progress)
        return self._curves[name]

    def distances(self, features: Features, dose: float) -> list[float | None]:
        """How far each direction has to be moved for it to have this dose itself; None where none tried is enough."""
        many, doses = len(features), [dose]
        found = curve(self.probe, features.directions, doses, most=many, every=True, progress=self.progress)
        each = [Curve(found.distances, found.kl[[k]]) for k in range(many)]
        return [shape.distance(dose) if shape.reaches(dose) else None for shape in each]

    def measured(
        self,
        name: str,
        features: Features,
        dose: float | Sequence[float],
        copies: Sequence[int],
        strength: float | Sequence[float],
        *,
        step: str = "",
    ) -> Measured:
        """Write a set's texts (kept as `step`) and read them beside the unsteered ones. dose, strength: of all
        features, or of each.
        """
        jobs, doses = self._jobs(len(features), dose, copies, strength), set(_each(dose, len(features)))
        step = step or (f"{name}.{doses.pop():g}" if len(doses) == 1 else name)
        written = self.keep(step, lambda: self.desk.write(name, jobs, features.directions, self.progress))
        return self.read(name, written, features, step)

    def _jobs(
        self, n: int, dose: float | Sequence[float], copies: Sequence[int], strength: float | Sequence[float]
    ) -> list[Job]:
        moved = zip(range(n), _each(dose, n), _each(strength, n), strict=True)
        return [job for k, d, s in moved for job in self.desk.jobs([k], d, s, copies)]

    def read(self, name: str, written: pl.DataFrame, features: Features, step: str) -> Measured:
        """Texts of a set, kept as `step`, under the readers of all its features."""
        both = pl.concat([written, self.unsteered])
        texts, reader = texts_of(both), self.desk.embed
        if isinstance(reader, AskedReader):
            asked = self.keep(f"{step}{ASKED}", lambda: reader.readings(both, features, self.progress))
            about = matrix_asked(asked, len(features))
        else:
            about = described(matrix_of(both, "vector"), features)
        values = {"described": about, "read_back": read_back(matrix_of(both, "state"), features)}
        return Measured(name, both, values, {outcome: by_feature(v, texts) for outcome, v in values.items()})


def _each(value: float | Sequence[float], n: int) -> list[float]:
    return [float(value)] * n if isinstance(value, int | float) else [float(v) for v in value]
