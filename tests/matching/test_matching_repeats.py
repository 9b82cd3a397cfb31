"""Stability over training seeds: PW-MCC against scipy, known answers, and what reaches a study's tables."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from test_matching_fold import F, Jump, jump, shuffled

from saelab.core.seeds import numpy_generator
from saelab.matching.match import match
from saelab.matching.repeats import mcc, run, stability
from saelab.store.folders import MatchingFolder


def noisy(sae: Jump, share: float) -> Jump:
    """The same SAE, every row turned a little, and rows of a norm of their own."""
    g = torch.Generator().manual_seed(5)
    rows = torch.nn.functional.normalize(sae.W_dec, dim=1) + share * torch.randn(sae.W_dec.shape, generator=g) / 5
    return Jump(sae.W_enc, rows * (1 + torch.rand(F, 1, generator=g)), sae.b_enc, sae.b_dec, sae.threshold, sae.cfg)


def by_scipy(a: Jump, b: Jump) -> float:
    """PW-MCC from its definition: the assignment of greatest summed cosine, dense."""
    rows, columns = (torch.nn.functional.normalize(s.W_dec.double(), dim=1).numpy() for s in (a, b))
    cosines = rows @ columns.T
    return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean())


def test_mcc_is_the_greatest_mean_cosine() -> None:
    a = jump()
    order = torch.randperm(F, generator=torch.Generator().manual_seed(2))
    for b in (noisy(shuffled(a, order), 0.5), jump(9)):
        found = match(a, b, fold="none", parts="decoder")
        assert mcc(found) == pytest.approx(by_scipy(a, b), abs=1e-6)
    assert mcc(match(a, shuffled(a, order), fold="none", parts="decoder")) == pytest.approx(1, abs=1e-6)


def test_a_training_is_written_with_its_chance(tmp_path: Path) -> None:
    a, near, far = jump(), noisy(jump(), 0.3), jump(9)
    for name, other in (("near", near), ("far", far)):
        run(a, other, tmp_path / name, seed=0)
    near_record, far_record = (MatchingFolder(tmp_path / n).quality.read() for n in ("near", "far"))
    assert near_record["mcc"] == pytest.approx(by_scipy(a, near), abs=1e-6)
    assert near_record["mcc"] > near_record["chance"] + 0.3
    assert abs(far_record["mcc"] - far_record["chance"]) < 0.1, "control: unrelated trainings are at chance"
    for record in (near_record, far_record):
        assert record["mcc_low"] < record["mcc"] < record["mcc_high"]
    cosines = match(a, near, fold="none", parts="decoder").cosine
    drawn = numpy_generator("mcc").choice(cosines, (4000, F)).mean(axis=1)
    ends = [near_record["mcc_low"], near_record["mcc_high"]]
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx(ends, abs=0.15 * (ends[1] - ends[0]))
    assert near_record["mcc_low"] > near_record["chance"], "and the control: far ones reach chance"
    assert far_record["mcc_low"] < far_record["chance"] + 0.1
    assert near_record["gap"] <= 1e-9 * max(near_record["cost"], 1) and near_record["repeat"]


def test_stability_is_the_mean_over_the_other_trainings() -> None:
    first = pl.DataFrame({"a": [0, 1, 2], "b": [2, 0, 1], "cosine": [0.9, 0.5, 0.1]})
    other = pl.DataFrame({"a": [0, 1, 2], "b": [0, 1, -1], "cosine": [0.7, 0.3, None]})
    own = stability([first, other], ["a", "b"])
    assert own["feature"].to_list() == [0, 1, 2]
    assert own["stability"].to_list() == pytest.approx([(0.9 + 0.7) / 2, (0.5 + 0.3) / 2, 0.1])
    assert stability([first], ["b"])["stability"].to_list() == pytest.approx([0.5, 0.1, 0.9]), "control: the other side"


def test_the_explorer_says_the_same(tmp_path: Path) -> None:
    from saelab.explore.partners import Partners
    from saelab.store.layout import RunFolder

    folder = RunFolder(tmp_path)
    saes: dict[str, Any] = {"x": jump(), "x.s1": noisy(jump(), 0.3), "x.s2": jump(9)}
    for a, b in (("x", "x.s1"), ("x", "x.s2"), ("x.s1", "x.s2")):
        run(saes[a], saes[b], folder.matching(a, b).root, seed=0)
    partners = Partners(folder, {n: n for n in saes}, {n: {"site": "s", "seed": i} for i, n in enumerate(saes)})
    shown = partners.stability("x.s1")
    tables = [folder.matching(*pair).matching.read() for pair in (("x", "x.s1"), ("x.s1", "x.s2"))]
    own = stability(tables, ["b", "a"])
    assert shown is not None and shown.sort("feature").equals(own)
