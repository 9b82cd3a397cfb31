"""Texts written under a set's directions and read once by the unsteered model: the table that everything else reads.

A row is a text: who steered it, how far, what it says, and what the unsteered model makes of it (mean state at the
site, likelihoods) beside its sentence embedding. A text's random stream depends on its own names alone. Knows no score
and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import seed_of
from saelab.instrument.outcomes import UNSTEERED, Texts
from saelab.instrument.prompts import Prompt
from saelab.judges.embedding import Embedder
from saelab.judges.steering_lexical import NEUTRAL, distinct_bigrams
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel

TABLE = {
    "owner": pl.Int64,
    "dose": pl.Float64,
    "strength": pl.Float64,
    "share": pl.Float64,
    "prompt": pl.String,
    "answer": pl.Boolean,
    "copy": pl.Int64,
    "text": pl.String,
    "n_tokens": pl.Int64,
    "nll": pl.Float64,
    "related": pl.Float64,
    "distinct": pl.Float64,
    "state": pl.List(pl.Float32),
    "vector": pl.List(pl.Float32),
}


@dataclass(frozen=True, eq=False)
class Job:
    """One text to write: the feature that steers it (-1: none), dose in nats, distance, prompt, and which copy."""

    owner: int
    dose: float
    strength: float
    prompt: int
    copy: int


@dataclass(frozen=True)
class Desk:
    """Where texts are written and read: a model at a site, prompts, an embedder, and how texts are sampled.

    norm: median norm of the stream, the unit of the column `share`.
    """

    lm: LanguageModel
    site: str
    prompts: Sequence[Prompt]
    embed: Embedder
    norm: float
    new_tokens: int = 24
    temperature: float = 0.7
    batch_size: int = 256
    seed: int = 0

    def jobs(self, owners: Sequence[int], dose: float, strength: float, copies: Sequence[int]) -> list[Job]:
        """Every owner under every prompt, as often as there are copies; copies of other numbers are other texts."""
        return [
            Job(owner, dose, strength, prompt, copy)
            for owner in owners
            for prompt in range(len(self.prompts))
            for copy in copies
        ]

    def write(
        self, name: str, jobs: Sequence[Job], directions: Float[np.ndarray, "K D"], progress: Progress = SILENT
    ) -> pl.DataFrame:
        """The table of the jobs' texts, in their order. `name` is the set's: it names the texts' random streams."""
        vectors = torch.zeros(len(jobs), self.lm.width(self.site))
        for i, job in enumerate(jobs):
            if job.owner != UNSTEERED:
                vectors[i] = torch.from_numpy(directions[job.owner].astype(np.float32))
        strengths = torch.tensor([float(job.strength) for job in jobs])
        seeds = [seed_of(self.seed, "instrument", name, j.owner, f"{j.dose:g}", j.prompt, j.copy) for j in jobs]
        ids = self.lm.generate_ids(
            [self.prompts[job.prompt].ids for job in jobs],
            Sampling(self.new_tokens, self.temperature, tuple(seeds)),
            edits=[Add(self.site, vectors, strengths)] if bool(strengths.any()) else [],
            batch_size=self.batch_size,
            progress=progress,
        )
        return self._table(jobs, ids)

    def _table(self, jobs: Sequence[Job], ids: Sequence[Sequence[int]]) -> pl.DataFrame:
        lm, prompts = self.lm, [self.prompts[job.prompt] for job in jobs]
        texts = [lm.decode(row) for row in ids]
        beginning = [lm.bos_id if lm.bos_id is not None else min(lm.stop_ids)]
        after, states = lm.read(beginning, ids, self.site)
        own, neutral = np.full((2, len(ids)), np.nan)
        answers = [i for i, prompt in enumerate(prompts) if prompt.answer]
        answered = [ids[i] for i in answers]
        own[answers] = _means(lm.nll([prompts[i].ids for i in answers], answered))
        neutral[answers] = _means(lm.nll([lm.chat(NEUTRAL)] * len(answers), answered))
        columns = {
            "owner": [job.owner for job in jobs],
            "dose": [float(job.dose) for job in jobs],
            "strength": [float(job.strength) for job in jobs],
            "share": [job.strength / self.norm for job in jobs],
            "prompt": [prompt.text for prompt in prompts],
            "answer": [prompt.answer for prompt in prompts],
            "copy": [job.copy for job in jobs],
            "text": texts,
            "n_tokens": [len(row) for row in ids],
            "nll": _null(_means(after)),
            "related": _null(neutral - own),
            "distinct": [distinct_bigrams(lm.token_strings(row)) for row in ids],
            "state": [None if state is None else state.tolist() for state in states],
            "vector": self.embed(texts).tolist(),
        }
        return pl.DataFrame(columns, schema=TABLE)


def texts_of(table: pl.DataFrame) -> Texts:
    """The columns that outcomes are made of; nulls are NaN."""
    known = table.select(pl.col("nll", "related", "distinct").fill_null(np.nan))
    nll, related, distinct = (column.to_numpy() for column in known.iter_columns())
    return Texts(table["owner"].to_numpy(), table["answer"].to_numpy(), nll, related, distinct)


def matrix_of(table: pl.DataFrame, column: str) -> Float[np.ndarray, "N D"]:
    """A column of vectors as rows, NaN where there is none."""
    rows = table[column].to_list()
    width = next((len(row) for row in rows if row is not None), 1)
    return np.array([[np.nan] * width if row is None else row for row in rows], np.float64)


def _means(nlls: Sequence[Float[torch.Tensor, "_"]]) -> Float[np.ndarray, " N"]:
    return np.array([float(nll.float().mean()) if len(nll) else np.nan for nll in nlls])


def _null(values: Float[np.ndarray, " N"]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
