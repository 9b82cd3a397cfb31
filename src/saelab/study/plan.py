"""From a study to its cells, and what they will cost. Nothing is computed or fetched here.

The graph, for every model: text -> harvest -> train (a site's SAEs together) -> interp, select -> steer for every SAE
of a steered grid, interp for the others, match for every step of a path; the judge is calibrated once per model; then
stats over all.
"""

from collections.abc import Sequence
from itertools import pairwise

import polars as pl

from saelab.core.seeds import seed_of
from saelab.study.cells import Cell, in_order
from saelab.study.spec import ModelConfig, PathConfig, SaeSpec, StudyConfig, check_widths, sae_name, saes_of

# Rough seconds on two cores, for a 135M-parameter LM: only progress bars and plans use them.
SECONDS = {
    "text": 8.0,
    "harvest": 1 / 2500,  # per token
    "train": 2e-11,  # per step, batch row, input width (taken as 576) and feature
    "interp": 6.0,
    "select": 1 / 1000,  # per feature
    "calibrate": 15.0,
    "steer": 1 / 250,  # per generated token
    "match": 12.0,
    "stats": 5.0,
}


def cells_of(study: StudyConfig) -> list[Cell]:
    """All cells of the study, inputs first."""
    ends: list[Cell] = []
    for model in study.models:
        ends += _model_cells(study, model)
    settings = {"seed": study.seed, "resamples": study.resamples, "name": study.name}
    return in_order([Cell("stats", study.name, settings, tuple(ends), SECONDS["stats"])])


def _model_cells(study: StudyConfig, model: ModelConfig) -> list[Cell]:
    saes = [s for s in saes_of(study) if s.model == model]
    sites = list(dict.fromkeys(s.site for s in saes))
    lm = {"lm": model.lm, "dtype": model.dtype}
    text = Cell("text", model.key, {"lm": model.lm} | study.text.model_dump(mode="json"), (), SECONDS["text"])
    tokens = study.text.train_contexts * study.text.context
    settings = lm | {"sites": sites} | study.harvest.model_dump(mode="json")
    harvest = Cell("harvest", model.key, settings, (text,), SECONDS["harvest"] * tokens)
    trained = {site: _train(study, model, site, [s for s in saes if s.site == site], harvest) for site in sites}
    settings = lm | {"instructions": study.instructions, "seed": study.seed}
    settings |= {"max_new_tokens": study.steering.max_new_tokens}
    calibrate = Cell("calibrate", model.key, settings, (), SECONDS["calibrate"])
    ends = []
    for sae in saes:
        check_widths(sae)
        ends += _sae_cells(study, sae, text, trained[sae.site], calibrate)
    return ends + [c for path in model.paths for c in _match_cells(study, model, path, text, trained)]


def _train(study: StudyConfig, model: ModelConfig, site: str, saes: Sequence[SaeSpec], harvest: Cell) -> Cell:
    settings = {
        # Its own seed for every site: SAEs that start from the same weights are matched by their start (see LOG.md).
        "seed": seed_of(study.seed, "training", model.key, site),
        "saes": {
            s.name: {"architecture": s.architecture, "level": s.level, "d_sae": s.d_sae} | s.options for s in saes
        },
        "training": study.training.model_dump(mode="json"),
    }
    work = study.training.steps * study.training.batch * 576 * sum(s.d_sae for s in saes)
    return Cell("train", f"{model.key}.{site}", settings, (harvest,), SECONDS["train"] * work)


def _sae_cells(study: StudyConfig, sae: SaeSpec, text: Cell, train: Cell, calibrate: Cell) -> list[Cell]:
    lm = {"lm": sae.model.lm, "dtype": sae.model.dtype}
    settings = lm | study.interp.model_dump(mode="json")
    interp = Cell("interp", sae.name, settings, (text, train), SECONDS["interp"])
    if not sae.steer:
        return [interp]
    settings = lm | study.selection.model_dump(mode="json")
    select = Cell("select", sae.name, settings, (interp,), SECONDS["select"] * sae.d_sae)
    settings = lm | study.steering.model_dump(mode="json") | {"instructions": study.instructions}
    return [Cell("steer", sae.name, settings, (interp, select, calibrate), SECONDS["steer"] * _steered_tokens(study))]


def _steered_tokens(study: StudyConfig) -> int:
    c = study.steering
    features = c.n_random + 2 * c.top_per_direction + c.top_output + c.n_control
    return features * (len(c.factors) * c.n_dev + c.n_test) * c.max_new_tokens


def _match_cells(
    study: StudyConfig, model: ModelConfig, path: PathConfig, text: Cell, trained: dict[str, Cell]
) -> list[Cell]:
    names = [sae_name(study, model, path.architecture, path.level, s) for s in path.sites]
    settings = {"lm": model.lm, "dtype": model.dtype} | study.matching.model_dump(mode="json")
    cells: list[Cell] = []
    sites = [s.site for name in names for s in saes_of(study) if s.name == name]
    for i, (first, second) in enumerate(pairwise(names)):
        inputs = (text, trained[sites[i]], trained[sites[i + 1]])
        cells.append(Cell("match", f"{first}--{second}", settings, inputs, SECONDS["match"]))
    if len(names) > 2:  # end to end: the composition of the steps beside the direct matching
        inputs = (text, trained[sites[0]], trained[sites[-1]], *cells)
        cells.append(Cell("match", f"{names[0]}--{names[-1]}", settings | {"path": names}, inputs, SECONDS["match"]))
    return cells


def plan_table(study: StudyConfig) -> pl.DataFrame:
    """One row per stage: cells and estimated minutes on two cores with a 135M-parameter LM; a total last."""
    cells = cells_of(study)
    stages = list(dict.fromkeys(c.stage for c in cells))
    rows = [
        {
            "stage": stage,
            "cells": sum(c.stage == stage for c in cells),
            "minutes": round(sum(c.estimate for c in cells if c.stage == stage) / 60, 1),
        }
        for stage in stages
    ]
    rows.append({"stage": "total", "cells": len(cells), "minutes": round(sum(c.estimate for c in cells) / 60, 1)})
    return pl.DataFrame(rows)


def disk_bytes(study: StudyConfig, d_in: int) -> int:
    """What a run keeps on disk, roughly: activations (bf16) and weights (fp32)."""
    tokens = study.text.train_contexts * study.text.context
    total = 0
    for model in study.models:
        saes = [s for s in saes_of(study) if s.model == model]
        total += tokens * d_in * 2 * len({s.site for s in saes}) + sum(8 * d_in * s.d_sae for s in saes)
    return total


def judged_texts(study: StudyConfig) -> int:
    """Generations that a judge reads in the whole study (each on three rubrics)."""
    c = study.steering
    features = c.n_random + 2 * c.top_per_direction + c.top_output + c.n_control
    return sum(s.steer for s in saes_of(study)) * features * (len(c.factors) * c.n_dev + c.n_test)
