"""What a study's stages take on this machine, by doing a little of each: for plans whose hours are not a guess.

The language model of the study reads drawn tokens, its SAEs take some steps on what was read, features of an SAE of
random directions are tried, and some texts are written with an edit in every row. What a stage took beside its estimate
(`plan.SECONDS`) is the factor of its cells. Nothing is kept, and no result of a study depends on it.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.activations.harvest import harvest
from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import numpy_generator
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.selection.effects import feature_effects
from saelab.study.levels import trained
from saelab.study.plan import SECONDS, cells_of, pass_seconds, trained_by
from saelab.study.sizes import BASE, size_of
from saelab.study.spec import ModelConfig, SaeSpec, StudyConfig, saes_of
from saelab.study.workspace import load_lm
from saelab.text.corpora import Document
from saelab.text.pack import pack_for
from saelab.training.sweep import train

# Stages that write texts, with their time as a multiple of that of the writing. Gate and steering also read what was
# written, in 1.8 (bfloat16) to 1.9 (float32) times as long (docs/benchmarks.md).
WRITTEN = {"gate": 2.8, "steer": 2.8, "rate": 1.0}
FEWEST = 32  # texts that are written together
STEPS = 4  # of training, beside one that only begins


@dataclass(frozen=True)
class MeasuredPlan:
    """hours: by stage, of those that were measured; memory_gib: at its peak, of this process; device_gib: of a card."""

    hours: dict[str, float]
    memory_gib: float
    device_gib: float | None


def measure(study: StudyConfig, *, seconds: float = 10.0, progress: Progress = SILENT) -> MeasuredPlan:
    """Do about so many seconds of each stage of every language model of a study. Raises what its loading raises."""
    hours: dict[str, float] = {}
    for model in study.models:
        with progress.task(f"measuring {model.key}", total=4, unit="stages") as task:
            lm = load_lm(model)
            factors: dict[str, float] = {}
            for stage in _of_model(study, model, lm, seconds):
                factors |= stage
                task.advance(1)
        alone = study.model_copy(update={"models": (model,), "suite": None})
        saes = saes_of(alone)
        for cell in cells_of(alone):
            if cell.stage in factors:
                streams = cell.stage == "train" and "stream" in cell.settings
                passes = pass_seconds(study, trained_by(cell, saes)) if streams else 0.0
                took = passes * factors["harvest"] + (cell.estimate - passes) * factors[cell.stage]
                hours[cell.stage] = hours.get(cell.stage, 0.0) + took / 3600
    card = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return MeasuredPlan(hours, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, card)


def _of_model(study: StudyConfig, model: ModelConfig, lm: LanguageModel, seconds: float) -> Iterator[dict[str, float]]:
    """Factors of stages, a part at a time."""
    weight = size_of(model.lm).parameters / BASE.parameters
    specs = [s for s in saes_of(study) if s.model == model]
    sites = list(dict.fromkeys(s.encodes for s in specs))
    per_token, rows = _harvested(study, lm, sites, seconds)
    yield {"harvest": per_token / (SECONDS["harvest"] * weight)}
    own = [s for s in specs if s.adopted is None and s.reads is None and s.encodes == sites[0]]
    if own:
        wider = rows.shape[1] / size_of(model.lm).d_model
        yield {"train": _trained(study, own, rows) / SECONDS["train"] * wider}
    site = next((s.site for s in specs if s.steer), specs[0].site)
    yield {"select": _effects(study, lm, site, seconds) / (SECONDS["select"] * weight)}
    per_token = _texts(study, lm, site, seconds)
    yield {stage: whole * per_token / (SECONDS[stage] * weight) for stage, whole in WRITTEN.items()}


def _harvested(study: StudyConfig, lm: LanguageModel, sites: list[str], seconds: float) -> tuple[float, Tensor]:
    """Seconds a token, and rows of the first site."""
    rng = numpy_generator("measured plan")

    def run(contexts: int) -> tuple[float, Tensor]:
        words = " ".join(f"w{n}" for n in rng.integers(0, 10_000, contexts * study.text.context))
        packed = pack_for(lm, [Document("0", words)], context=study.text.context, n_contexts=contexts)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            shards = harvest(lm, packed, sites, Path(folder), config=study.harvest.own)[sites[0]]
            took = time.perf_counter() - began
            batch = min(256, shards.n)
            return took / packed.tokens.numel(), torch.cat(list(shards.batches(batch, passes=1, seed=0))).float()

    return _enough(run, study.harvest.batch_contexts, seconds, study.text.context)


def _enough(run: Callable[[int], tuple[float, Tensor]], least: int, seconds: float, each: int) -> tuple[float, Tensor]:
    """A first go of `least`, then as many as take about so many seconds (at most 64 times as many)."""
    first, rows = run(least)
    many = int(min(64 * least, seconds / max(1e-9, first * each)))
    return run(many) if many > 2 * least else (first, rows)


def _trained(study: StudyConfig, specs: list[SaeSpec], rows: Tensor) -> float:
    """Seconds a step, batch row, input width and feature of the SAEs of one site."""
    d, batch = rows.shape[1], study.training.batch
    configs = [s.training_config(d_in=d) for s in trained(specs)]
    data = [rows[torch.arange(i * batch, (i + 1) * batch) % len(rows)] for i in range(STEPS + 1)]
    how = study.training

    def took(steps: int) -> float:
        began = time.perf_counter()
        train(configs, data[:steps], steps=steps, precision=how.precision, device=how.device)
        return time.perf_counter() - began

    took(1)  # what is done once is no step's
    start = took(1)
    return max(1e-12, took(STEPS + 1) - start) / STEPS / (batch * d * sum(c.d_sae for c in configs))


def _effects(study: StudyConfig, lm: LanguageModel, site: str, seconds: float) -> float:
    """Seconds a feature."""
    c, width = study.selection, 4 * study.selection.batch_size
    model = lm.to_dtype("float32") if c.float32 and lm.dtype != torch.float32 else lm
    d = lm.width(lm.site(site))
    rows = torch.nn.functional.normalize(torch.randn(width, d, generator=torch.Generator().manual_seed(0)), dim=1)
    weights = {"W_enc": rows.T, "W_dec": rows, "b_enc": torch.zeros(width), "b_dec": torch.zeros(d)}
    sae = TopKSae(SaeConfig(architecture=TopKSae.saelens_name, d_in=d, d_sae=width, k=8, site=site), weights)
    asked: dict[str, Any] = {"prefix": c.prefixes, "alpha": c.alpha, "k": c.k}
    asked |= {"edit": c.edit, "positions": c.positions}

    def run(features: int) -> tuple[float, Tensor]:
        began = time.perf_counter()
        feature_effects(model, sae, **asked, features=range(features), batch_size=c.batch_size)
        return (time.perf_counter() - began) / features, rows

    run(min(16, width))  # a first pass is slower
    first, _ = run(min(c.batch_size, width))
    more = int(min(width, seconds / max(1e-9, first)))
    return run(more)[0] if more > c.batch_size else first


def _texts(study: StudyConfig, lm: LanguageModel, site: str, seconds: float) -> float:
    """Seconds a new token of steered texts, an edit in every row."""
    sizes = study.instrument
    prompt = lm.tokenize(["The other day I thought that"])[0]
    d = lm.width(lm.site(site))

    def run(texts: int) -> float:
        vectors = torch.randn(texts, d, generator=torch.Generator().manual_seed(0))
        began = time.perf_counter()
        asked = Sampling(sizes.new_tokens, temperature=sizes.temperature)
        made = lm.generate_ids([prompt] * texts, asked, edits=[Add(site, vectors, 0.1)], batch_size=sizes.batch_size)
        return (time.perf_counter() - began) / max(1, sum(map(len, made)))

    first = run(min(8, sizes.batch_size))  # a step of few texts takes nearly as long as one of many
    more = int(seconds / max(1e-9, first * sizes.new_tokens))
    return run(min(sizes.batch_size, max(FEWEST, more)))
