"""Sparse probing: do a few latents linearly carry concepts that were named beforehand?

For each class of each data set: a logistic regression on the k latents whose class means differ most on train (k = 1,
2, 5), its accuracy on a balanced test set; the same with the k LM coordinates; and probes on the whole of both. Means
over classes, then over data sets. Chance is 0.5. Source: SAEBench `sparse_probing` (0.6.0), after Gurnee et al.
2305.01610 and Gao et al. 2406.04093. Latents enter in raw activation units, so the choice of k depends on their scale.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import ClassSet, class_sets
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.labelled import OneVsRest
from saelab.interp.suite.probes import ProbeConfig, fit_probe, sparse_accuracy
from saelab.interp.suite.result import Metrics, Result, averaged

KIND = "sparse_probing"
ALL_K = (1, 2, 5, 10, 20, 50, 100)
DEVIATIONS = (
    "named generators per data set and class in place of the global one",
    "positions known, not told by zero rows",
    "data sets made of those in the sae-probes wheel, in place of upstream's eight of the hub",
)


class SparseProbingConfig(Config):
    """Data sets and sizes; a set's two sizes are totals of a balanced task, half of them positive."""

    dataset_names: tuple[str, ...] = Field(min_length=1, description="Labelled sets (labelled.py).")
    probe_train_set_size: int = Field(default=4000, ge=4, description="Texts to train a probe on.")
    probe_test_set_size: int = Field(default=1000, ge=4, description="Texts to test it on.")
    context_length: int = Field(default=128, ge=8, description="Tokens of a text that are read, BOS included.")
    k_values: tuple[int, ...] = Field(default=(1, 2, 5), description="Latents of a sparse probe.")


SETS = ("ag_news", "code_language", "news_class")
PRESETS: Mapping[Preset, SparseProbingConfig] = {
    "paper": SparseProbingConfig(dataset_names=SETS, probe_train_set_size=1600, probe_test_set_size=400),
    "small": SparseProbingConfig(
        dataset_names=SETS[:2], probe_train_set_size=256, probe_test_set_size=128, context_length=64
    ),
    "tiny": SparseProbingConfig(
        dataset_names=SETS[:1], probe_train_set_size=32, probe_test_set_size=16, context_length=16, k_values=(1, 2)
    ),
}


def probe_tasks(
    x: Float[Tensor, "N D"], tasks: Sequence[OneVsRest], ks: Sequence[int], prefix: str, *names: str | int
) -> dict[str, Metrics]:
    """Accuracies of one representation, by class: `{prefix}_test_accuracy` and `{prefix}_top_{k}_test_accuracy`."""
    found: dict[str, Metrics] = {}
    for task in tasks:
        full = fit_probe(x, task.split, ProbeConfig(), *names, prefix, task.label)
        row: Metrics = {f"{prefix}_test_accuracy": full.tested(x, task.split)}
        for k in ks:
            row[f"{prefix}_top_{k}_test_accuracy"] = sparse_accuracy(x, task.split, k)
        found[task.label] = row
    return found


def evaluation(
    llm: Mapping[str, Mapping[str, Metrics]],
    sae: Mapping[str, Mapping[str, Metrics]],
    ks: Sequence[int],
    config: Mapping[str, object],
) -> Result:
    """Join the accuracies of the LM and of an SAE, by data set and class, into one result."""
    details, by_dataset = [], {"llm": [], "sae": []}
    for name in sae:
        row: Metrics = {}
        for prefix, found in (("llm", llm), ("sae", sae)):
            means = averaged(list(found[name].values()))
            by_dataset[prefix].append(means)
            row |= means
        details.append({"dataset_name": f"{name}_results", **_named(row, ks)})
    metrics = {
        p: {k: v for k, v in _named(averaged(rows), ks).items() if k.startswith(p)} for p, rows in by_dataset.items()
    }
    unstructured = {f"{n}_results": _by_metric(sae[n]) | _by_metric(llm[n]) for n in sae}
    return Result(
        KIND, metrics, {**config, "k_values": list(ks), "deviations": list(DEVIATIONS)}, details, unstructured
    )


def _named(row: Mapping[str, float | int | None], ks: Sequence[int]) -> Metrics:
    """All of SAEBench's fields, null where not measured."""
    del ks
    names = [f"{p}_{m}" for p in ("llm", "sae") for m in ("test_accuracy", *(f"top_{k}_test_accuracy" for k in ALL_K))]
    return {name: row.get(name) for name in names}


def _by_metric(by_class: Mapping[str, Metrics]) -> dict[str, Metrics]:
    found: dict[str, Metrics] = {}
    for label, row in by_class.items():
        for metric, value in row.items():
            found.setdefault(metric, {})[label] = value
    return found


def _data_sets(config: SuiteConfig) -> list[ClassSet]:
    c = PRESETS[config.preset]
    return class_sets(c.dataset_names, c.probe_train_set_size, c.probe_test_set_size, c.context_length)


def _prepare(site: SiteSuite) -> dict[str, dict[str, Metrics]]:
    """The accuracies of the LM itself, by data set and class."""
    return {r.title: _probed(site, r, site.texts(r).x, "llm") for r in _data_sets(site.config)}


def _evaluate(subject: Subject, shared: Mapping[str, Mapping[str, Metrics]]) -> Result:
    site = subject.site
    config = PRESETS[site.config.preset]
    rows = {r.title: _probed(site, r, subject.pooled(r), "sae") for r in _data_sets(site.config)}
    return evaluation(shared, rows, config.k_values, config.model_dump())


def _probed(site: SiteSuite, data: ClassSet, x: Float[Tensor, "N D"], prefix: str) -> dict[str, Metrics]:
    seed, ks = site.config.seed, PRESETS[site.config.preset].k_values
    return probe_tasks(x, site.texts(data).tasks, ks, prefix, seed, data.title)


EVALUATION = Evaluation(KIND, PRESETS, _evaluate, _prepare, _data_sets, saebench=SaebenchFile(KIND))
