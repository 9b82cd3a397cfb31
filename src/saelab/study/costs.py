"""What a study will take, before anything is run or fetched: cells, hours, disk, judge calls and dollars.

Hours are of two cores without bfloat16, one cell after the other, scaled by the size of the language model: rough, and
only to tell minutes from days. Texts and calls are upper bounds: a feature that two arms choose is written once, and a
question that was answered is not asked again. Sizes come from a short table or from the name; nothing is opened.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import polars as pl

from saelab.activations.shards import MEMORY_BYTES
from saelab.core.hardware import cores, multiplies_bfloat16
from saelab.core.records import Description
from saelab.instrument.config import questions
from saelab.instrument.readers import EXAMPLE, EXAMPLES
from saelab.interp.features.detection import TASK
from saelab.interp.features.windows import TEST
from saelab.judges.anchors import anchors
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.openai_compatible import CostEstimate, OpenAIJudge
from saelab.judges.rubric import RUBRICS
from saelab.stats.spread import APART, smallest_tau
from saelab.steering.plan import Budget, budget
from saelab.study.plan import cells_of, dictionaries_of, trained_by
from saelab.study.sizes import size_of
from saelab.study.spec import ModelConfig, SaeSpec, StudyConfig, saes_of
from saelab.study.streams import activation_bytes, harvested_contexts, sites_of_model

CHARACTERS = 4  # of a token


def plan_table(study: StudyConfig, measured: Mapping[str, float] | None = None) -> pl.DataFrame:
    """One row per stage: cells and hours; a total last.

    measured: hours of stages that were measured here (measured.py); the others stay estimates, and a column says which
    are which.
    """
    cells = cells_of(study)
    rows: list[dict[str, Any]] = []
    for stage in dict.fromkeys(c.stage for c in cells):
        own = [c for c in cells if c.stage == stage]
        known = None if measured is None else measured.get(stage)
        seconds = sum(c.estimate for c in own) if known is None else 3600 * known
        rows.append(
            {"stage": stage, "cells": len(own), "hours": seconds, "from": "estimate" if known is None else "measured"}
        )
    total = sum(row["hours"] for row in rows)
    of = {row["from"] for row in rows}
    rows.append({"stage": "total", "cells": len(cells), "hours": total, "from": of.pop() if len(of) == 1 else "both"})
    table = pl.DataFrame([row | {"hours": _rounded(row["hours"])} for row in rows])
    return table.drop("from") if measured is None else table


def seconds_here(study: StudyConfig, stages: Collection[str] | None = None) -> float:
    """Estimated seconds of some stages (None: all) on this machine, one cell after the other.

    Estimates are of two cores without bfloat16. More cores are taken to help up to sixteen, native bfloat16 to halve.
    """
    work = sum(cell.estimate for cell in cells_of(study) if stages is None or cell.stage in stages)
    return work / (max(0.5, min(cores(), 16) / 2) * (2 if multiplies_bfloat16() else 1))


def disk_parts(study: StudyConfig, at_once: int = 1) -> dict[str, int]:
    """Bytes that a run has on disk at most, roughly: packed text, activations, SAEs (float32), and the checkpoints of
    so many cells of training at once, the one that is being written among them.
    """
    saes, tokens = saes_of(study), study.text.train_contexts * study.text.context
    weights = {s.name: 8 * size_of(s.model.lm).d_model * s.d_sae for s in saes}
    states = [3 * sum(weights[n] for n in c.settings["saes"]) for c in cells_of(study) if c.stage == "train"]
    return {
        "text": 8 * tokens * len(study.models),
        "activations": sum(activation_bytes(study, m, harvested_contexts(study, m)) for m in study.models),
        "SAEs": sum(weights.values()),
        "checkpoints": (study.training.checkpoints + 1) * sum(sorted(states)[-at_once:]),
    }


def disk_bytes(study: StudyConfig, at_once: int = 1) -> int:
    """The sum of `disk_parts`."""
    return sum(disk_parts(study, at_once).values())


def training_bytes(study: StudyConfig, *, stored: bool = True) -> int:
    """Memory of the cell of training that takes most, batches aside: weights, gradients and two moments of its SAEs,
    and the rows that it holds; of a stream the language model too. stored: rows of stored activations count.
    """
    most, saes = 0, saes_of(study)
    for cell in cells_of(study):
        if cell.stage != "train":
            continue
        specs, live = trained_by(cell, saes), "stream" in cell.settings
        model = specs[0].model
        own = 4 * sum(8 * size_of(model.lm).d_model * s.d_sae for s in specs)
        if live:
            contexts = -(-study.harvest.buffer_rows // study.text.context)
            own += lm_bytes(model) + 2 * activation_bytes(study, model, contexts)
        elif stored:
            own += min(MEMORY_BYTES, activation_bytes(study, model) // len(sites_of_model(study, model)))
        most = max(most, own)
    return most


def lm_bytes(model: ModelConfig) -> int:
    """Weights of a language model in memory, roughly."""
    half = model.dtype == "bfloat16" or (model.dtype == "auto" and multiplies_bfloat16())
    return int(size_of(model.lm).parameters * (2 if half else 4))


# Variances of a feature's percentile by `described`, measured at two language models (docs/steering.md): between the
# texts of a feature, between features of an SAE; and the spread of SAEs' means, for what a ranking could be.
TEXT_VARIANCE, FEATURE_VARIANCE, BETWEEN = 0.075, 0.02, 0.03
INTERPRETABLE = 0.9  # reliability of an SAE's mean balanced accuracy, over some hundred features


@dataclass(frozen=True)
class Power:
    """What a study's design can see of the headline outcome. se: standard error of an SAE's mean percentile. smallest:
    difference between two SAEs, and tau: agreement with interpretability, that it finds four times in five (None: no
    tau is).
    """

    saes: int
    features: int
    texts: int
    se: float
    smallest: float
    tau: float | None


def power_of(study: StudyConfig) -> Power | None:
    """The power of the steering part; None where nothing is steered. A run says afterwards what it measured.

    Controls are steered too, but are none of the SAEs that agreement is over.
    """
    widths = [s.d_sae for s in saes_of(study) if s.steer and s.control is None]
    saes = len(widths)
    if not saes:
        return None
    features = min(sum(arm.random or 0 for arm in study.steering.arms), *widths)
    texts = study.instrument.texts_per_feature
    se = sqrt((FEATURE_VARIANCE + TEXT_VARIANCE / texts) / features)
    tau = smallest_tau(saes, INTERPRETABLE, BETWEEN**2 / (BETWEEN**2 + se**2))
    return Power(saes, features, texts, se, APART * sqrt(2) * se, tau)


def steering_budget(study: StudyConfig) -> Budget:
    """Texts written and judged for one steered SAE."""
    c = study.steering
    return budget(c, c.features + c.n_control, c.features)


def judged_texts(study: StudyConfig) -> int:
    """Texts that a judge reads in the whole study (each on three rubrics)."""
    return 0 if not study.rated else sum(s.steer for s in saes_of(study)) * steering_budget(study).judged


def judge_calls(study: StudyConfig) -> CostEstimate | None:
    """Questions to paid judges, their tokens, and dollars where prices are given; None where all are free."""
    found = [part for part in (_judged(study), _read(study)) if part is not None]
    if not found:
        return None
    dollars = [part.dollars for part in found if part.dollars is not None]
    return CostEstimate(
        sum(part.calls for part in found),
        sum(part.prompt_tokens for part in found),
        sum(part.completion_tokens for part in found),
        sum(dollars) if len(dollars) == len(found) else None,
    )


def _read(study: StudyConfig) -> CostEstimate | None:
    """What the instrument's reader is asked."""
    reader, sites = study.instrument.judge, sites_of(study)
    if reader is None or not reader.kind.paid:
        return None
    about = Description("x" * (EXAMPLES * EXAMPLE + 80))
    text = Request("concept", "x" * CHARACTERS * study.instrument.new_tokens, description=about)
    one = OpenAIJudge(ChatConfig(model="estimate", max_tokens=reader.limit, price=reader.price)).estimate([text])
    n = sum(questions(study.instrument, len(dictionaries_of(s)), study.steering.features, len(s)) for s in sites)
    dollars = None if one.dollars is None else one.dollars * n
    return CostEstimate(one.calls * n, one.prompt_tokens * n, one.completion_tokens * n, dollars)


def sites_of(study: StudyConfig) -> list[list[SaeSpec]]:
    """The SAEs that are steered with, site by site."""
    found: dict[tuple[str, str], list[SaeSpec]] = {}
    for spec in saes_of(study):
        if spec.steer:
            found.setdefault((spec.model.key, spec.site), []).append(spec)
    return list(found.values())


def _judged(study: StudyConfig) -> CostEstimate | None:
    """What the study's judge is asked."""
    if not study.judge.kind.paid:
        return None
    judge = OpenAIJudge(ChatConfig(model="estimate", max_tokens=study.judge.limit, price=study.judge.price),
                        together=study.judge.together)  # fmt: skip
    detection, rated = judge.estimate(_windows(study)), judge.estimate(_texts(study))
    scored = len(saes_of(study)) * study.interp.n_scored
    checked = judge.estimate([request for request, _ in anchors()])
    parts = ((detection, scored), (rated, judged_texts(study)), (checked, 2))

    def total(name: str) -> int:
        return sum(getattr(estimate, name) * times for estimate, times in parts)

    dollars = None
    if study.judge.price is not None:
        dollars = total("prompt_tokens") * study.judge.price[0] + total("completion_tokens") * study.judge.price[1]
        dollars /= 1e6
    return CostEstimate(total("calls"), total("prompt_tokens"), total("completion_tokens"), dollars)


def _windows(study: StudyConfig) -> list[Request]:
    """The windows of one feature, at their usual length."""
    c = study.interp.windows
    sides = (TEST, 1 - TEST) if study.interp.calibrated else (TEST,)
    window = "x" * CHARACTERS * (2 * c.radius + 1)
    return [Request(TASK, window, description=Description("x" * 80)) for s in sides for _ in range(sum(c.counts(s)))]


def _texts(study: StudyConfig) -> list[Request]:
    """One steered text under all rubrics."""
    text = "x" * CHARACTERS * study.steering.max_new_tokens
    return [Request(r, text, description=Description("x" * 80), instruction="x" * 100) for r in RUBRICS]


def _rounded(seconds: float) -> float:
    return round(seconds / 3600, 2) if seconds < 360000 else float(round(seconds / 3600))
