"""Which SAE is better at what: only what an interval tells; and the study that `saelab evaluate` makes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.lm.facts import facts_of
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae
from saelab.study.compare import ASPECTS, COLUMNS, Values, _difference, sentence
from saelab.study.evaluation import PLAIN, evaluation, presets
from saelab.study.plan import cells_of
from saelab.study.spec import saes_of

FIDELITY, INTERPRETABILITY, _ = ASPECTS


def pair(aspect: str, first: str, second: str, difference: float | None, width: float = 0.01) -> dict[str, Any]:
    low, high = (None, None) if difference is None else (difference - width, difference + width)
    sign = None if low is None or high is None or low < 0 < high else difference
    lower = aspect == "fidelity"
    better = None if sign is None else (first if (sign > 0) != lower else second)
    means, l0s = {"a": 0.5, "b": 0.4, "c": 0.3}, {"a": 8.0, "b": 4.0, "c": 4.0}
    return {
        "lm": "lm", "site": "resid_post.1", "aspect": aspect, "first": first, "second": second,
        "first_mean": means[first], "second_mean": means[second], "difference": difference, "low": low, "high": high,
        "n": 16, "better": better, "state": "ok" if difference is not None else "too_few", "method": "t",
        "first_l0": l0s[first], "second_l0": l0s[second],
    }  # fmt: skip


def told(*rows: dict[str, Any]) -> str:
    return sentence(pl.DataFrame(list(rows), schema=COLUMNS))


def test_the_sentence_says_no_more_than_the_intervals() -> None:
    ab, ac, bc = ("a", "b"), ("a", "c"), ("b", "c")
    found = told(*(pair("fidelity", *p, 0.1) for p in (ab, ac, bc)))
    assert found.startswith("By FVU on held-out text, c (0.300, L0 4.0) is better than a (L0 8.0: -0.100 [-0.110")
    assert "cannot be told" not in found
    mixed = told(
        pair("interpretability", *ab, 0.1, 0.2), pair("interpretability", *ac, 0.2), pair("interpretability", *bc, 0.1)
    )
    assert (
        "a (0.500, L0 8.0) is better than c" in mixed and "and cannot be told from b (L0 4.0: +0.100 [-0.100" in mixed
    )
    alike = told(pair("interpretability", *ab, 0.1, 0.2))
    assert "a (0.500, L0 8.0) cannot be told from b" in alike and "better" not in alike
    assert "too little was scored" in told(pair("interpretability", *ab, None))
    assert told() == ""


def test_differences_of_known_samples() -> None:
    """Contexts are paired, features are not; what is the same is told from nothing."""
    rng = numpy_generator("compared")
    shared: Values = rng.normal(0.5, 0.3, 16)
    noise: Values = rng.normal(0, 0.01, 16)
    paired = _difference(FIDELITY, shared + 0.05 + noise, shared, "a/b", 0)
    assert paired.low is not None and 0.03 < paired.low < 0.05 < (paired.high or 0) < 0.07
    apart = _difference(INTERPRETABILITY, shared + 0.05 + noise, shared, "a/b", 0)
    assert apart.low is not None and apart.low < 0 < (apart.high or 0), "without pairs the same shift is not seen"
    far = _difference(INTERPRETABILITY, shared + 1, shared, "a/b", 0)
    assert far.low is not None and far.low > 0.5
    assert _difference(INTERPRETABILITY, np.array([0.5]), shared, "a/b", 0).value is None


@pytest.fixture
def saes(tmp_path: Path, tiny_weights: Path) -> list[str]:
    """Two folders of one name, and one without a language model."""
    made = []
    for i, lm in enumerate((f"path:{tiny_weights}", f"path:{tiny_weights}", None)):
        g = torch.Generator().manual_seed(i)
        w = {"W_enc": torch.randn(32, 40, generator=g), "W_dec": torch.randn(40, 32, generator=g)}
        w |= {"b_enc": torch.zeros(40), "b_dec": torch.zeros(32)}
        cfg = SaeConfig(architecture="topk", d_in=32, d_sae=40, k=4, site="resid_post.1", lm=lm)
        save_sae(TopKSae(cfg, w), tmp_path / str(i) / "sae")
        made.append(str(tmp_path / str(i) / "sae"))
    return made


def test_a_study_is_made_of_references(saes: list[str], tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = evaluation(saes, preset="tiny")
    assert study.models[0].lm == f"path:{tiny_weights}" and study.models[0].template is None
    facts = facts_of(study.models[0].lm)
    assert facts is not None
    monkeypatch.setattr("saelab.study.evaluation.facts_of", lambda lm: replace(facts, template=False))
    assert evaluation(saes, preset="tiny").models[0].template == PLAIN, "a model without a chat template is asked"
    assert [(s.name, s.site, s.level) for s in saes_of(study)] == [(f"sae.{i}", "resid_post.1", 4) for i in (1, 2, 3)]
    assert {c.stage for c in cells_of(study)} >= {"adopt", "interp", "gate", "select", "steer", "stats"}
    quick = evaluation(saes, preset="tiny", only=("fidelity", "interp"))
    assert {c.stage for c in cells_of(quick)} == {"text", "harvest", "adopt", "interp", "stats"}
    assert quick.interp.n_scored == 32 and evaluation(saes, only=("fidelity",)).interp.n_scored == 0
    assert quick.models[0].template is None and quick.name != study.name
    assert quick == evaluation(saes, preset="tiny", only=("fidelity", "interp")), "the same command goes on"
    matched = evaluation(saes, preset="tiny", only=("match",))
    assert [c.name for c in cells_of(matched) if c.stage == "match"] == ["sae.1--sae.2", "sae.2--sae.3"]
    assert evaluation(saes, only=("suite",)).suite is not None
    assert all(evaluation(saes, preset=preset).models for preset in presets())


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"only": ("steering",)}, "no part 'steering'. .*steer"),
        ({"preset": "smal"}, "no preset 'smal'. .*small"),
        ({"lm": "smollm2-135m"}, "reads width 32, and smollm2-135m has width 576"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(saes: list[str], asked: dict[str, Any], sentence: str) -> None:
    from saelab.study.checks import check

    with pytest.raises(UserError, match=sentence):
        check(evaluation(saes, **asked))


def test_an_lm_is_asked_for_where_no_file_names_one(saes: list[str]) -> None:
    with pytest.raises(UserError, match="do not name its language model"):
        evaluation(saes[2:])
