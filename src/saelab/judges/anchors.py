"""Forty frozen items that show whether a judge stayed the same between the start and the end of a run.

    weighted kappa = 1 - sum_ij w_ij O_ij / sum_ij w_ij E_ij,    w_ij = (i - j)^2     (Cohen 1968)

O are the joint shares of two ratings, E the product of their margins: 1 is perfect agreement, 0 what chance gives. An
endpoint may change the model behind a name in the middle of a study; then scores from before and after are not of one
judge. Agreement with what was expected of the items is reported beside it, as a sanity check of the judge itself.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from saelab.core.errors import JudgeError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.judges.client import Judge, Request

# Anchor questions have sample numbers of their own, so that no cache answers the second round with the first.
FIRST_SAMPLE = 1_000_000
LEAST = 0.8  # kappa of two rounds of one judge


@dataclass(frozen=True)
class Drift:
    """How two rounds over the anchors agree. n: items answered in both; missing: items that were not.

    kappa: of the rounds with each other; kappa_expected: of the first with what is expected. None without a value.
    """

    kappa: float | None
    kappa_expected: float | None
    n: int
    missing: int

    @property
    def state(self) -> str:
        """`same`, `changed` (kappa below `LEAST`), or `too_few`: less than half the items were answered twice."""
        if self.kappa is None or self.n < len(anchors()) // 2:
            return "too_few"
        return "same" if self.kappa >= LEAST else "changed"

    def record(self) -> dict[str, Any]:
        """State and figures; no kappa of the rounds where too few items tell."""
        return {"state": self.state} | vars(self) | ({"kappa": None} if self.state == "too_few" else {})


@cache
def anchors() -> tuple[tuple[Request, int], ...]:
    """The items and what is expected of them."""
    lines = resources.files("saelab.judges").joinpath("anchors.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        item = json.loads(line)
        description = Description(item["description"]) if "description" in item else None
        request = Request(item["task"], item["text"], description=description, instruction=item.get("instruction"))
        found.append((request, int(item["expected"])))
    return tuple(found)


def judge_anchors(judge: Judge, moment: int, *, progress: Progress = SILENT) -> list[Judgement]:
    """One round over the anchors; `moment` numbers the rounds. Where the judge gives up, all are missing."""
    requests = [replace(r, sample=FIRST_SAMPLE + moment) for r, _ in anchors()]
    try:
        return judge.judge(requests, progress=progress)
    except JudgeError as error:
        return [Judgement("missing", None, judge.name, error.message)] * len(requests)


def drift(start: Sequence[Judgement], end: Sequence[Judgement]) -> Drift:
    """Agreement of two rounds with each other, and of the first with what was expected."""
    pairs = [(a.value, b.value) for a, b in zip(start, end, strict=True) if a.value is not None and b.value is not None]
    known = [(a.value, float(e)) for a, (_, e) in zip(start, anchors(), strict=True) if a.value is not None]
    return Drift(weighted_kappa(pairs), weighted_kappa(known), len(pairs), len(start) - len(pairs))


def weighted_kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Quadratically weighted kappa of rating pairs; None where both raters gave one and the same value throughout."""
    if not pairs:
        return None
    a, b = np.array(pairs, np.float64).T
    observed = float(((a - b) ** 2).mean())
    expected = float(((a[:, None] - b[None, :]) ** 2).mean())
    return None if expected == 0 else 1 - observed / expected
