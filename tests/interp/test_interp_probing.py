"""Probing, TPP and SCR on planted dictionaries: an oracle SAE scores as it must and a rotated one does not."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.interp.suite import scr, sparse_probing, tpp
from saelab.interp.suite.ablation import ablated, effects_on, strongest
from saelab.interp.suite.labelled import LabelledData, OneVsRest, labelled_table, load_labelled, one_against_rest
from saelab.interp.suite.pooled import TextActivations, pool_activations, pool_codes, read_ids
from saelab.interp.suite.probes import (
    LinearProbe,
    ProbeConfig,
    Split,
    fit_logistic,
    fit_probe,
    sparse_accuracy,
    top_coordinates,
)
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig

D = 24
EYE = torch.eye(D)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int = 0) -> Tensor:
    return torch.linalg.qr(drawn(D, D, seed=seed))[0]


def half(n: int, offset: int = 0) -> Split:
    """Alternating labels, first two thirds for training."""
    rows = np.arange(n)
    y = (rows + offset) % 2 == 0
    cut = 2 * n // 3
    return Split(rows[:cut], y[:cut], rows[cut:], y[cut:])


# --- probes ---


def test_probes_learn_what_is_there_and_nothing_else() -> None:
    split = half(600)
    x = drawn(600, D)
    x[::2, 3] += 2.5
    config = ProbeConfig(epochs=30)
    assert fit_probe(x, split, config, 0).accuracy(x[split.test], torch.from_numpy(split.test_y)) > 0.85
    noise = drawn(600, D, seed=9)
    assert 0.35 < fit_probe(noise, split, config, 0).accuracy(noise[split.test], torch.from_numpy(split.test_y)) < 0.68
    assert top_coordinates(x, np.arange(600) % 2 == 0, 1).tolist() == [3]
    assert sparse_accuracy(x, split, 1) > 0.85 and sparse_accuracy(noise, split, 1) < 0.65


def test_probes_depend_on_their_names_alone() -> None:
    split, x = half(120), drawn(120, D)
    made = [fit_probe(x, split, ProbeConfig(epochs=3), "a", n) for n in (0, 0, 1)]
    assert torch.equal(made[0].weight, made[1].weight) and not torch.equal(made[0].weight, made[2].weight)


def test_logistic_regression_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = drawn(200, 3), np.arange(200) % 2 == 0
    model = LogisticRegression(max_iter=1000).fit(x.numpy(), y)
    probe = fit_logistic(x, y)
    assert np.array_equal(probe.predict(x).numpy(), model.predict(x.numpy()))


# --- ablation ---


def test_pooled_ablation_equals_ablating_every_token() -> None:
    """The identity that spares the tokens: pool(x - f_S W_S) = pool(x) - pool(f)_S W_S."""
    generator = drawn(7, 30, D)  # 7 texts of 30 tokens
    W_dec = torch.nn.functional.normalize(drawn(40, D, seed=1), dim=1)
    codes = torch.relu(generator @ W_dec.T)
    latents = torch.tensor([0, 3, 17])
    kept = codes.clone()
    kept[..., latents] = 0
    by_token = (kept @ W_dec + (generator - codes @ W_dec)).mean(1)
    torch.testing.assert_close(
        ablated(generator.mean(1), codes.mean(1), W_dec, latents), by_token, atol=1e-5, rtol=1e-4
    )


def test_effects_sign_and_choice() -> None:
    probe = LinearProbe(torch.tensor([1.0, 0.0]), 0.0)
    W_dec = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    difference = torch.tensor([2.0, 1.0, 5.0, -3.0])
    assert effects_on(probe, difference, W_dec, signed=True).tolist() == [2, -1, 0, 0]
    assert effects_on(probe, difference, W_dec, signed=False).tolist() == [2, 1, 0, 3]
    assert strongest(torch.tensor([2.0, -1.0, 0.0, 3.0]), 10).tolist() == [3, 0]


# --- TPP ---


def classes(k: int = 4, n: int = 400) -> tuple[Tensor, list[OneVsRest]]:
    """k classes; texts of class c have coordinate c raised."""
    label = np.arange(k * n) % k
    x = 1.0 * drawn(k * n, D).abs()
    x[torch.arange(k * n), torch.from_numpy(label)] += 6
    tasks = []
    for c in range(k):
        positive = np.flatnonzero(label == c)
        negative = np.random.default_rng(c).permutation(np.flatnonzero(label != c))[: len(positive)]
        rows = np.concatenate([positive, negative])
        y = np.arange(len(rows)) < len(positive)
        test = np.arange(len(rows)) % 3 == 0
        tasks.append(OneVsRest(str(c), Split(rows[~test], y[~test], rows[test], y[test])))
    return x, tasks


def test_tpp_of_an_oracle_dictionary_is_a_half_and_of_a_rotated_one_less() -> None:
    x, tasks = classes()
    probed = tpp.probe_classes(x, tasks, 0)
    assert min(probed.clean) > 0.95
    oracle = tpp.perturb(probed, x, torch.relu(x), EYE, [1, 2])
    result = tpp.evaluation({"made": oracle}, {"n_values": [2]})
    total = result.metrics["tpp_metrics"]["tpp_threshold_2_total_metric"]
    assert total is not None and total > 0.35
    R = rotation()
    turned = tpp.perturb(probed, x, torch.relu(x @ R), R.T, [2])
    other = tpp.evaluation({"made": turned}, {}).metrics["tpp_metrics"]["tpp_threshold_2_total_metric"]
    assert other is not None and other < total - 0.15
    dead = tpp.perturb(probed, x, torch.zeros_like(x), EYE, [2])
    assert all(row["tpp_threshold_2_total_metric"] == 0 for row in dead.values())
    assert result.metrics["tpp_metrics"]["tpp_threshold_500_total_metric"] is None


# --- SCR ---


def confounded(n: int = 800) -> tuple[LabelledData, Tensor]:
    """Texts of four quadrants; concept along coordinate 0, attribute along coordinate 1 and twice as strong."""
    a, b = np.arange(4 * n) % 2, (np.arange(4 * n) // 2) % 2
    x = 1.5 * drawn(4 * n, D, seed=4)
    x[:, 0] += torch.from_numpy(2.5 * (1 - 2 * a))
    x[:, 1] += torch.from_numpy(4.5 * (1 - 2 * b))
    texts = tuple(str(i) for i in range(4 * n))
    return LabelledData(
        "made", texts, tuple("a+" if v == 0 else "a-" for v in a), tuple("b+" if v == 0 else "b-" for v in b)
    ), x


def test_scr_of_an_oracle_is_near_one_and_of_a_rotated_dictionary_is_not() -> None:
    data, x = confounded()
    taken, tasks = scr.confound(data, 300, 60, 0, concept=("a+", "a-"), attribute=("b+", "b-"))
    x = x[[int(t) for t in taken.texts]]
    probed = scr.probe_confounded(x, tasks, 0)
    assert probed.biased_at[0] < 0.8 < probed.biased_at[1], "C must have learnt the attribute"
    assert probed.oracle[0] > 0.85
    both = torch.cat([EYE, -EYE])  # a latent for either sign: taking both out leaves no shift behind
    oracle = scr.remove(probed, x, torch.relu(x @ both.T), both, [2])
    assert (oracle["scr_dir1_threshold_2"] or 0) > 0.6
    assert oracle["scr_metric_threshold_2"] == oracle["scr_dir1_threshold_2"]
    R = rotation(3)
    turned = scr.remove(probed, x, torch.relu(x @ R @ both.T), both @ R.T, [2])
    assert (turned["scr_dir1_threshold_2"] or 0) < (oracle["scr_dir1_threshold_2"] or 0) - 0.2
    nothing = scr.remove(probed, x, torch.zeros_like(x), EYE, [2])
    assert nothing["scr_dir1_threshold_2"] == 0


def test_confounded_tasks_are_balanced_and_disjoint() -> None:
    data, _ = confounded(300)
    taken, tasks = scr.confound(data, 50, 20, 0, concept=("a+", "a-"), attribute=("b+", "b-"))
    for split, key in ((tasks.concept, taken.labels), (tasks.attribute, taken.attributes)):
        assert key is not None
        assert {key[i] for i in split.train[split.train_y]} in ({"a+"}, {"b+"})
        other = taken.attributes if key is taken.labels else taken.labels
        assert other is not None
        assert [other[i] for i in split.train].count(other[0]) == len(split.train) / 2
    assert not set(tasks.both.train) & set(tasks.both.test)
    assert not (set(tasks.both.train) | set(tasks.concept.train)) & (set(tasks.concept.test) | set(tasks.both.test))
    assert {(taken.labels[i], taken.attributes[i]) for i in tasks.both.train[tasks.both.train_y]} == {("a+", "b+")}  # type: ignore[index]
    with pytest.raises(UserError, match="are needed"):
        scr.confound(data, 5000, 20, 0, concept=("a+", "a-"), attribute=("b+", "b-"))


# --- data and pooling ---


def test_one_against_rest_is_balanced_disjoint_and_named() -> None:
    labels = tuple("abc"[i % 3] for i in range(300))
    data = LabelledData("d", tuple(f"t{i}" for i in range(300)), labels)
    taken, tasks = one_against_rest(data, 40, 20, 0)
    assert [t.label for t in tasks] == ["a", "b", "c"] and len(taken.texts) == 180
    every_test = {i for t in tasks for i in t.split.test}
    assert not every_test & {i for t in tasks for i in t.split.train}
    for task in tasks:
        assert task.split.train_y.mean() == 0.5 and len(task.split.train) == 80 and len(task.split.test) == 40
        assert {taken.labels[i] for i in task.split.train[task.split.train_y]} == {task.label}
        assert task.label not in {taken.labels[i] for i in task.split.test[~task.split.test_y]}
    again = one_against_rest(data, 40, 20, 0)
    assert again[0] == taken and np.array_equal(again[1][1].split.train, tasks[1].split.train)
    with pytest.raises(UserError, match="fewer than two classes"):
        one_against_rest(data, 400, 20, 0)


def test_labelled_tables_are_read(tmp_path: Path) -> None:
    table = pl.DataFrame({"text": ["a", "b"], "label": [0, 1], "attribute": ["x", "y"]})
    table.write_csv(tmp_path / "t.csv")
    data = load_labelled(f"path:{tmp_path / 't.csv'}")
    assert data.labels == ("0", "1") and data.attributes == ("x", "y")
    with pytest.raises(UserError, match="no column 'label'"):
        labelled_table(table.drop("label"), "t")


def identity_sae(d: int) -> Sae:
    eye = torch.cat([torch.eye(d), -torch.eye(d)])
    weights = {"W_enc": eye.T, "W_dec": eye, "b_enc": torch.zeros(2 * d), "b_dec": torch.zeros(d)}
    return TopKSae(SaeConfig(architecture="topk", d_in=d, d_sae=2 * d, k=2 * d), weights)


def read(lm: LanguageModel, texts: list[str], *, batch_size: int = 32) -> TextActivations:
    found = read_ids(lm, lm.tokenize(texts), ["resid_post.1"], context=40, batch_size=batch_size)
    return found["resid_post.1"]


def test_pooling_ignores_padding_batches_and_special_tokens() -> None:
    lm = tiny_lm()
    texts = ["a short one", "a text that is quite a bit longer than the first of them", "mid length text"]
    one = read(lm, texts, batch_size=1)
    all_ = read(lm, texts, batch_size=3)
    torch.testing.assert_close(one.rows.float(), all_.rows.float(), atol=0.05, rtol=0.05)
    assert one.n_texts == 3 and torch.bincount(one.text).tolist() == [len(r[:40]) - 1 for r in lm.tokenize(texts)]
    direct = lm.capture([texts[0]], ["resid_post.1"])["resid_post.1"].mean(0)
    torch.testing.assert_close(pool_activations(one)[0], direct, atol=0.02, rtol=0.02)
    sae = identity_sae(32)
    codes = pool_codes(sae, one)
    torch.testing.assert_close(codes[:, :32] - codes[:, 32:], pool_activations(one), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pool_codes(sae, one, block=5), codes)
    with pytest.raises(UserError, match="no token to count"):
        read(lm, ["fine", ""])


def test_sparse_probing_of_an_identity_equals_the_lms() -> None:
    x, tasks = classes(3)
    llm = {"made": sparse_probing.probe_tasks(x, tasks, [1, 2], "llm", 0)}
    sae = {"made": sparse_probing.probe_tasks(torch.relu(x), tasks, [1, 2], "sae", 0)}
    result = sparse_probing.evaluation(llm, sae, [1, 2], {})
    metrics = {**result.metrics["llm"], **result.metrics["sae"]}
    assert (
        metrics["sae_top_1_test_accuracy"] == metrics["llm_top_1_test_accuracy"]
        and (metrics["sae_top_1_test_accuracy"] or 0) > 0.9
    )
    assert metrics["sae_top_100_test_accuracy"] is None
    R = rotation()
    turned = sparse_probing.probe_tasks(torch.relu(x @ R), tasks, [1], "sae", 0)
    assert max(row["sae_top_1_test_accuracy"] or 0 for row in turned.values()) < metrics["llm_top_1_test_accuracy"]  # type: ignore[operator]
