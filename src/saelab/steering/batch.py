"""Generation of many steered texts in few batches: each row has its own direction, strength and prompt.

A `Job` is one text to be written. Jobs of different features, methods, factors and prompts share batches; the edit is
per row, and a prompt that several rows share runs once up to the edited site. A job's seed is its own, so what it
writes does not depend on its batch mates (up to the rounding of the batch's matrix products). Knows no judge, no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.lm.edit import Edit, Positions
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.steering.direction import Direction
from saelab.steering.edits import edit_of

ANSWERS = Sampling(128, 1)  # as a study asks for them unless told otherwise


@dataclass(frozen=True, eq=False)
class AnswerJob:
    """One text to write: an instruction, and a direction with a factor (None and 0: unsteered)."""

    instruction: str
    direction: Direction | None
    factor: float | int
    seed: int


@dataclass(frozen=True)
class Written:
    """What a job wrote: the new text and its number of tokens."""

    text: str
    n_tokens: int


def write(
    lm: LanguageModel,
    jobs: Sequence[AnswerJob],
    *,
    edit: str = "add",
    sae: Sae | None = None,
    positions: Positions = "all",
    sampling: Sampling = ANSWERS,
    batch_size: int = 128,
    progress: Progress = SILENT,
) -> list[Written]:
    """The texts of all jobs, in their order, each from its job's seed.

    All directions act at one site; `sae` is read by clamps of features.
    """
    if not jobs:
        return []
    ids = lm.generate_ids(
        [lm.chat(job.instruction) for job in jobs],
        replace(sampling, seed=tuple(job.seed for job in jobs)),
        edits=_edits(lm, jobs, edit, positions, sae),
        batch_size=batch_size,
        progress=progress,
    )
    return [Written(lm.decode(new), len(new)) for new in ids]


def _edits(
    lm: LanguageModel, jobs: Sequence[AnswerJob], kind: str, positions: Positions, sae: Sae | None
) -> list[Edit]:
    sites = sorted({job.direction.site for job in jobs if job.direction is not None})
    if not sites:
        return []
    if len(sites) > 1:
        raise UserError(f"One batch steers at one site, not at {', '.join(sites)}.", hint="Write them in turn.")
    vectors, strengths = torch.zeros(len(jobs), lm.width(sites[0])), torch.zeros(len(jobs))
    features = torch.full((len(jobs),), -1)
    for i, job in enumerate(jobs):
        if job.direction is not None:
            vectors[i] = job.direction.vector
            strengths[i] = job.direction.strength(job.factor)
            features[i] = -1 if job.direction.feature is None else job.direction.feature
    return [edit_of(kind, sites[0], vectors, strengths, positions, sae=sae, features=features)]
