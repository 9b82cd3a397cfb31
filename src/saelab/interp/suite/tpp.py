"""Targeted probe perturbation: does ablating the latents of class i hurt the probe of class i and no other?

Probes w_i for every class, one against rest. For class i the n latents with the largest signed effect on w_i are
ablated (ablation.py) in the test texts of every class j, and every probe is measured again:

    D_ij(n) = accuracy_j(clean) - accuracy_j(class i's latents ablated)
    intended = mean_i D_ii,    unintended = mean_{i != j} D_ij,    total = intended - unintended

Source: SAEBench `tpp` (0.6.0), Karvonen et al. 2411.18895. The same negatives serve before and after ablation (upstream
draws them anew each time, which adds noise of about 0.008).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.interp.suite.ablation import ablated, effects_on, strongest
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import ClassSet, class_sets
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.labelled import OneVsRest
from saelab.interp.suite.probes import SHIFT_PROBE, LinearProbe, fit_probe, mean_difference
from saelab.interp.suite.result import Metrics, Result, averaged

KIND = "tpp"
ALL_N = (2, 5, 10, 20, 50, 100, 500)
PARTS = ("total_metric", "intended_diff_only", "unintended_diff_only")
DEVIATIONS = ("the same negatives before and after ablation", "no leak from padded positions", "named generators")


class TppConfig(Config):
    """Data sets and sizes, as totals of a balanced task (half of them positive)."""

    dataset_names: tuple[str, ...] = Field(min_length=1, description="Labelled sets of three classes or more.")
    train_set_size: int = Field(default=4000, ge=4, description="Texts to train a probe on.")
    test_set_size: int = Field(default=1000, ge=4, description="Texts to test it on.")
    context_length: int = Field(default=128, ge=8, description="Tokens of a text that are read, BOS included.")
    n_values: tuple[int, ...] = Field(default=ALL_N, description="Numbers of latents that are ablated.")


SETS = ("ag_news", "code_language")
PRESETS: Mapping[Preset, TppConfig] = {
    "paper": TppConfig(dataset_names=SETS, train_set_size=1600, test_set_size=400),
    "small": TppConfig(
        dataset_names=SETS, train_set_size=256, test_set_size=128, context_length=64, n_values=(2, 5, 10, 20, 50)
    ),
    "tiny": TppConfig(dataset_names=SETS[:1], train_set_size=32, test_set_size=16, context_length=16, n_values=(2, 5)),
}


@dataclass(frozen=True)
class ProbedTasks:
    """The tasks of a data set with a probe each and its clean accuracy; shared by all SAEs of a site."""

    tasks: tuple[OneVsRest, ...]
    probes: tuple[LinearProbe, ...]
    clean: tuple[float, ...]


def probe_classes(x: Float[Tensor, "N D"], tasks: Sequence[OneVsRest], *names: str | int) -> ProbedTasks:
    """Train the probes on pooled activations."""
    probes = [fit_probe(x, task.split, SHIFT_PROBE, *names, "tpp", task.label) for task in tasks]
    return with_probes(x, tasks, probes)


def with_probes(x: Float[Tensor, "N D"], tasks: Sequence[OneVsRest], probes: Sequence[LinearProbe]) -> ProbedTasks:
    """The tasks with given probes and their clean accuracies."""
    clean = tuple(probe.tested(x, task.split) for probe, task in zip(probes, tasks, strict=True))
    return ProbedTasks(tuple(tasks), tuple(probes), clean)


def perturb(
    probed: ProbedTasks,
    x: Float[Tensor, "N D"],
    codes: Float[Tensor, "N F"],
    W_dec: Float[Tensor, "F D"],
    n_values: Sequence[int],
) -> dict[str, Metrics]:
    """The metrics of every class i (as the class whose latents are ablated): `tpp_threshold_{n}_{part}`."""
    found: dict[str, Metrics] = {}
    for i, (task, probe) in enumerate(zip(probed.tasks, probed.probes, strict=True)):
        difference = mean_difference(codes[task.split.train], task.split.train_y)
        effects = effects_on(probe, difference, W_dec, signed=True)
        row: Metrics = {}
        for n in n_values:
            changed = ablated(x, codes, W_dec, strongest(effects, n))
            drops = [
                clean - other.tested(changed, their.split)
                for other, their, clean in zip(probed.probes, probed.tasks, probed.clean, strict=True)
            ]
            others = [d for j, d in enumerate(drops) if j != i]
            intended, unintended = drops[i], sum(others) / len(others) if others else None
            total = None if unintended is None else intended - unintended
            row |= dict(
                zip((f"tpp_threshold_{n}_{part}" for part in PARTS), (total, intended, unintended), strict=True)
            )
        found[task.label] = row
    return found


def evaluation(by_dataset: Mapping[str, Mapping[str, Metrics]], config: Mapping[str, object]) -> Result:
    """Mean over classes, then over data sets."""
    rows = {name: _named(averaged(list(found.values()))) for name, found in by_dataset.items()}
    metrics = {"tpp_metrics": _named(averaged(list(rows.values())))}
    details = [{"dataset_name": f"{name}_tpp_results", **row} for name, row in rows.items()]
    unstructured = {name: dict(found) for name, found in by_dataset.items()}
    return Result(KIND, metrics, {**config, "deviations": list(DEVIATIONS)}, details, unstructured)


def _named(row: Mapping[str, float | int | None]) -> Metrics:
    return {key: row.get(key) for n in ALL_N for part in PARTS for key in (f"tpp_threshold_{n}_{part}",)}


def _data_sets(config: SuiteConfig) -> list[ClassSet]:
    c = PRESETS[config.preset]
    return class_sets(c.dataset_names, c.train_set_size, c.test_set_size, c.context_length)


def _prepare(site: SiteSuite) -> dict[str, ProbedTasks]:
    """The probes of the LM, by data set."""
    found, seed = {}, site.config.seed
    for data in _data_sets(site.config):
        texts = site.texts(data)
        found[data.title] = probe_classes(texts.x, texts.tasks, seed, data.title)
    return found


def _evaluate(subject: Subject, shared: Mapping[str, ProbedTasks]) -> Result:
    site, W_dec = subject.site, subject.sae.W_dec
    config = PRESETS[site.config.preset]
    rows = {
        r.title: perturb(shared[r.title], site.texts(r).x, subject.pooled(r), W_dec, config.n_values)
        for r in _data_sets(site.config)
    }
    return evaluation(rows, config.model_dump())


EVALUATION = Evaluation(KIND, PRESETS, _evaluate, _prepare, _data_sets, saebench=SaebenchFile("tpp"))
