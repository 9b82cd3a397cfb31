"""Directions evaluated on disk: write, judge on dev, choose each factor, write and judge on test.

Shared by the stages of this package (`run.py` for an SAE's features, `concepts/` for fitted directions), and with
them the only files of this package with I/O. Resumable: texts are saved after every chunk and judgements after every
phase; what a former call with the same settings left is kept, and chunks are always the same, so an interrupted run
ends with the bytes of an uninterrupted one. Tables (one row per text, per judgement):

- generations.parquet  generation, feature, method, factor, strength, instruction_id, instruction, split, text,
                       n_tokens, seed
- judgements.parquet   generation, rubric, judge, state, value, reason
- manifest.json        settings, language model, judge and its calibration
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.config import digest_of
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description
from saelab.judges.client import Judge, Request
from saelab.judges.rubric import RUBRICS
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.steering import plan
from saelab.steering.batch import Written, write
from saelab.steering.config import UtilityConfig
from saelab.steering.direction import Direction
from saelab.steering.utility import best_factor, score_generations, split_instructions
from saelab.store.folders import RatingsFolder
from saelab.store.layout import Table
from saelab.store.resumable import Resumable
from saelab.store.tables import write_table

GENERATIONS = {
    "generation": pl.String, "feature": pl.Int64, "method": pl.String, "factor": pl.Float64, "strength": pl.Float64,
    "instruction_id": pl.Int64, "instruction": pl.String, "split": pl.String, "text": pl.String, "n_tokens": pl.Int64,
    "seed": pl.Int64,
}  # fmt: skip
JUDGEMENTS = {
    "generation": pl.String, "rubric": pl.String, "judge": pl.String, "state": pl.String, "value": pl.Float64,
    "reason": pl.String,
}  # fmt: skip
Key = tuple[int, str]


@dataclass(frozen=True)
class SteeringTask:
    """What is evaluated: directions and concepts by number, answering which instructions, judged by whom.

    prompts: by number, a text put before the instruction (method `prompting`). sae: read by clamping edits.
    judge_record: what the judge was calibrated on, kept in the manifest.
    """

    lm: LanguageModel
    directions: Mapping[Key, Direction]
    concepts: Mapping[int, Description]
    instructions: Sequence[str]
    judge: Judge
    prompts: Mapping[int, str] = field(default_factory=dict)
    sae: Sae | None = None
    judge_record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SteeringResult:
    """By (number, method): the chosen factor with its dev mean (None: nothing could be scored), and the scored texts of
    the test instructions.
    """

    best: dict[Key, tuple[float, float] | None]
    test: dict[Key, pl.DataFrame]


def evaluate(config: UtilityConfig, task: SteeringTask, folder: Path, progress: Progress = SILENT) -> SteeringResult:
    """Dev at every factor, test at the chosen one. Writes the tables above into `folder`."""
    work = _Work(config, task, folder, progress)
    dev, test = split_instructions(task.instructions, config.n_dev, config.n_test, config.seed)
    scored = work.judged(work.written(plan.dev_rows(task.directions, config.factors, dev, task.prompts)))
    best = {key: best_factor(_by_factor(table)) for key, table in _groups(scored).items()}
    factors = {key: None if found is None else found[0] for key, found in best.items()}
    scored = work.judged(work.written(plan.held_out_rows(task.directions, factors, test, task.prompts)))
    return SteeringResult(best, _groups(scored))


class _Work:
    """The tables on disk and how they grow."""

    def __init__(self, config: UtilityConfig, task: SteeringTask, folder: Path, progress: Progress):
        self.config, self.task, self.folder, self.progress = config, task, RatingsFolder(folder), progress
        self.generations = pl.DataFrame(schema=GENERATIONS)
        self.judgements = pl.DataFrame(schema=JUDGEMENTS)
        self._open()

    def written(self, rows: Sequence[plan.Row]) -> pl.DataFrame:
        """The generations of `rows`, in order: what is missing is written, chunk by chunk."""
        for start in range(0, len(rows), self.config.chunk):
            part = rows[start : start + self.config.chunk]
            if not {r.generation for r in part} <= set(self.generations["generation"]):
                self.generations = pl.concat([self.generations, self._write(part)])
                self._save(self.folder.generations, self.generations)
        order = pl.DataFrame({"generation": [r.generation for r in rows]}, {"generation": pl.String})
        return order.join(self.generations, on="generation", how="left", maintain_order="left")

    def judged(self, generations: pl.DataFrame) -> pl.DataFrame:
        """`generations` with ratings and scores; those without judgements are judged first."""
        new = generations.join(self.judgements, on="generation", how="anti", maintain_order="left")
        if new.height:
            concepts = self.task.concepts
            asked = [
                (row["generation"], Request(rubric, row["text"], (), concepts[row["feature"]], row["instruction"]))
                for row in new.iter_rows(named=True)
                for rubric in RUBRICS
            ]
            answers = self.task.judge.judge([request for _, request in asked], progress=self.progress)
            table = [
                (generation, request.task, answer.judge, answer.state, answer.value, answer.reason)
                for (generation, request), answer in zip(asked, answers, strict=True)
            ]
            self.judgements = pl.concat([self.judgements, pl.DataFrame(table, JUDGEMENTS, orient="row")])
            self._save(self.folder.judgements, self.judgements)
        return score_generations(generations, self.judgements)

    def _open(self) -> None:
        """Take up what a former call with the same settings left, or start anew."""
        task = self.task
        vectors = [[*key, d.site, d.distance, d.vector.tolist()] for key, d in task.directions.items()]
        manifest = {
            "config": self.config.model_dump(mode="json"),
            "lm": {"reference": task.lm.reference, "dtype": str(task.lm.dtype)},
            "directions": digest_of([vectors, sorted(task.prompts.items())]),
            "instructions": digest_of(list(task.instructions)),
            "judge": {"name": task.judge.name, **task.judge_record},
        }
        self.held = Resumable(self.folder.manifest, manifest)
        if self.held.fresh:
            for table in (self.folder.generations, self.folder.judgements, self.folder.utility):
                table.path.unlink(missing_ok=True)
            self.held.begin()
        self.generations = self._former(self.folder.generations, self.generations)
        self.judgements = self._former(self.folder.judgements, self.judgements)

    def _former(self, table: Table, empty: pl.DataFrame) -> pl.DataFrame:
        return table.read(empty.columns) if self.held.whole(table.path) else empty

    def _save(self, table: Table, rows: pl.DataFrame) -> None:
        self.held.write(table.path, lambda path: write_table(path, rows))

    def _write(self, rows: Sequence[plan.Row]) -> pl.DataFrame:
        config, task = self.config, self.task
        seeds = [row.seed(config.seed) for row in rows]
        # Unsteered texts of one instruction have one seed and are one text, whatever feature they stand beside.
        known = {s: Written(t, n) for s, t, n in self.generations.select("seed", "text", "n_tokens").iter_rows()}
        new = {s: row for s, row in zip(seeds, rows, strict=True) if s not in known}
        texts = write(
            task.lm,
            [plan.job(row, task.directions, task.prompts, task.instructions, config.seed) for row in new.values()],
            edit=config.edit,
            sae=task.sae,
            positions=config.positions,
            sampling=Sampling(config.max_new_tokens, config.temperature),
            batch_size=config.batch_size,
            progress=self.progress,
        )
        by_seed = known | dict(zip(new, texts, strict=True))
        asked = task.instructions
        table = [
            (r.generation, r.feature, r.method, r.factor, r.strength, r.instruction_id, asked[r.instruction_id],
             r.split, by_seed[s].text, by_seed[s].n_tokens, s)
            for s, r in zip(seeds, rows, strict=True)
        ]  # fmt: skip
        return pl.DataFrame(table, GENERATIONS, orient="row")


def _groups(scored: pl.DataFrame) -> dict[Key, pl.DataFrame]:
    parts = scored.partition_by("feature", "method", as_dict=True, maintain_order=True)
    return {(int(feature), str(method)): table for (feature, method), table in parts.items()}


def _by_factor(scored: pl.DataFrame) -> dict[float, list[float | None]]:
    found: dict[float, list[float | None]] = {}
    for factor, score in scored.select("factor", "score").iter_rows():
        found.setdefault(factor, []).append(score)
    return found
