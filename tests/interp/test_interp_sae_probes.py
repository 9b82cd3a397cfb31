"""sae-probes: a latent that knows the class is found and scores 1, noise does not; splits are balanced and disjoint."""

import numpy as np
import pytest
import torch
from saebench_fields import problems
from test_interp_core import drawn, identity

from saelab.interp.suite import sae_probes
from saelab.interp.suite.labelled import LabelledData
from saelab.interp.suite.saebench_json import record

CONFIG = sae_probes.SaeProbesConfig(dataset_names=("a",), most_rows=400, most_train=120, ks=(1, 2))


def labelled(n: int = 400, classes: str = "NY") -> LabelledData:
    labels = tuple(classes[i % len(classes)] for i in range(n))
    return LabelledData("a", tuple(f"{label} text {i}" for i, label in enumerate(labels)), labels)


def test_tasks_are_balanced_disjoint_and_named() -> None:
    task = sae_probes.task_of(labelled(), CONFIG, 0)
    assert task is not None
    split = task.split
    assert len(split.train) == 120 and split.train_y.mean() == 0.5 and split.test_y.mean() == 0.5
    assert not set(split.train) & set(split.test) and len(set(task.texts)) == len(task.texts)
    truth = np.array([t[0] == "Y" for t in task.texts])
    assert np.array_equal(truth[split.train], split.train_y) and np.array_equal(truth[split.test], split.test_y)
    assert 0.2 < split.train_y[-24:].mean() < 0.8  # the validation rows hold both classes
    assert sae_probes.task_of(labelled(classes="ABC"), CONFIG, 0) is None
    assert sae_probes.task_of(labelled(110), CONFIG, 0) is None


def test_a_telling_latent_is_found_whatever_its_scale_and_noise_is_not() -> None:
    task = sae_probes.task_of(labelled(), CONFIG, 0)
    assert task is not None
    y = np.array([t[0] == "Y" for t in task.texts])
    codes = drawn(len(y), 32).abs() * 100
    codes[:, 7] = 0
    codes[torch.from_numpy(y), 7] = 0.01 * (1 + drawn(int(y.sum()), seed=1).abs())
    assert sae_probes.rank_latents(codes[task.split.train], task.split.train_y)[0] == 7
    sae = sae_probes.probe_latents(codes * 1000, task.split, [1], 0)
    assert sae["sae_top_1_test_auc"] == 1
    noise = sae_probes.probe_latents(drawn(len(y), 32, seed=3).abs(), task.split, [1], 0)
    assert 0.3 < (noise["sae_top_1_test_auc"] or 0) < 0.7
    llm = sae_probes.probe_whole(codes, task.split, 0)
    assert llm == sae_probes.probe_whole(codes, task.split, 0)
    result = sae_probes.evaluation({"a": llm}, {"a": sae}, CONFIG)
    assert result.metrics["sae"]["sae_top_1_test_auc"] == 1 and result.metrics["sae"]["sae_top_5_test_f1"] is None
    file = record(result, identity(), "x", version="0")
    assert problems(file) == [] and file["sae_metrics_by_k"]["1"]["test_auc"] == 1


def test_small_sets_are_validated_in_folds() -> None:
    y = np.arange(60) % 2 == 0
    assert len(sae_probes._folds(60, y, 0)) == 6 and len(sae_probes._folds(128, np.tile(y, 3)[:128], 0)) == 1


@pytest.mark.real
def test_the_wheel_has_a_hundred_and_thirteen_binary_sets() -> None:
    names = sae_probes.PRESETS["paper"].names
    assert len(names) == 113 and set(sae_probes.SMALL) <= set(names)
