"""The points of the story against NumPy, on one dictionary at every site of a tiny LM; and the page drawn from them."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from test_matching_run import SITES, D, F, sae

from saelab.core.records import Description
from saelab.judges.client import Request
from saelab.judges.scripted import ScriptedJudge
from saelab.lm.tiny import tiny_lm
from saelab.matching.story import CHANCE, DIRECTIONS, FOLDED, UNFOLDED, Member, Story
from saelab.matching.story_figures import nearest, points
from saelab.report.story import story_page
from saelab.text.pack import PackedText

ORDERS = [torch.randperm(F, generator=torch.Generator().manual_seed(k)) for k in range(3)]


def described(order: torch.Tensor) -> dict[int, Description]:
    return {i: Description(f"topic {int(k)}") for i, k in enumerate(order)}


def oracle(request: Request) -> float:
    assert request.description is not None
    return 3.0 if request.description.text == request.text else 1.0


def text(seed: int) -> PackedText:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 250, (8, 24), generator=g).int()
    documents = torch.arange(16).repeat_interleave(12).reshape(8, 24).int()
    return PackedText(tokens, documents, tuple("abcdefghijklmnop"), None, frozenset())


@pytest.fixture(scope="module")
def story() -> Story:
    chain = [
        Member(f"sae{k}", site, 8, sae(order), described(order), described(order))
        for k, (site, order) in enumerate(zip(SITES, ORDERS, strict=True))
    ]
    lower = []
    for m in chain[:2]:
        other = sae(ORDERS[chain.index(m)])
        other.threshold.mul_(3)
        lower.append(Member(f"{m.name}.low", m.site, 4, other, m.described, m.again))
    steps = list(pairwise(chain))
    levels = [(lower[0], lower[1]), (chain[0], chain[1])]
    lm = tiny_lm(n_layers=4, d_model=D)
    texts = {"held-out text": text(0), "other": text(1)}
    return Story(lm, texts, steps, chain, levels, ScriptedJudge(oracle), scale=True, contexts=8, pairs=20)


@pytest.fixture(scope="module")
def table(story: Story) -> pl.DataFrame:
    return points(story)


def series(table: pl.DataFrame, figure: str) -> Mapping[str, list[float]]:
    own = table.filter(figure=figure).sort("x")
    return {str(k): rows["value"].to_list() for (k,), rows in own.group_by("series", maintain_order=True)}


def test_norms_scores_and_errors_are_those_of_numpy(story: Story, table: pl.DataFrame) -> None:
    kept = story.kept.numpy()
    states = [story.own.states[site].numpy()[kept] for site in SITES]
    assert series(table, "1 norms")["states"] == pytest.approx([np.linalg.norm(x, axis=1).mean() for x in states])
    members = [story.members[f"sae{k}"] for k in range(3)]
    codes = [m.sae.encode(torch.from_numpy(x)).detach().numpy() for m, x in zip(members, states, strict=True)]
    for step in range(2):
        partner = np.argsort(ORDERS[step + 1].numpy())[ORDERS[step].numpy()]  # the same row of the dictionary
        on_a, on_b = codes[step] > 0, codes[step + 1][:, partner] > 0
        expected = (on_a & on_b).sum() / on_a.sum()
        for how in (FOLDED, DIRECTIONS):
            assert series(table, "7")[how][step] == pytest.approx(expected, abs=1e-6)
        assert series(table, "7")[CHANCE][step] < expected
        theta = [m.sae.threshold.numpy()[:, None] for m in members[step : step + 2]]
        rows = [m.sae.W_dec.detach().numpy() for m in members[step : step + 2]]
        chance = story.stepped[f"sae{step}", f"sae{step + 1}"][CHANCE]
        error = ((theta[0] * rows[0] - (theta[1] * rows[1])[chance]) ** 2).mean()
        assert series(table, "3 decoder")[CHANCE][step] == pytest.approx(error, rel=0.02), "but for the clipped one"
        assert series(table, "3 decoder")[FOLDED][step] < 1e-9
    assert set(series(table, "7")) == {FOLDED, DIRECTIONS, UNFOLDED, CHANCE}
    ends = table.filter(figure="7", series=FOLDED)
    assert (ends["low"] < ends["value"]).all() and (ends["value"] < ends["high"]).all()


def test_figures_agree_where_they_show_the_same(story: Story, table: pl.DataFrame) -> None:
    eight = series(table, "8")
    for how in (FOLDED, DIRECTIONS):
        assert eight[f"composed, {how}"] == pytest.approx(eight[f"direct, {how}"]), "the same dictionary everywhere"
    assert eight[f"direct, {FOLDED}"][0] == pytest.approx(series(table, "7")[FOLDED][0])
    skipped = series(table, "11 held-out text")
    for step, (a, b) in enumerate(story.steps):
        assert series(table, "16")[f"{a.layer} to {b.layer}"][-1] == pytest.approx(skipped[FOLDED][step], abs=1e-5)
    assert skipped[FOLDED] != series(table, "11 other")[FOLDED], "control: another text"
    levels = series(table, "14")[FOLDED]
    into = series(table, "15")
    assert [into["into L0 4"][0], into["into L0 8"][1]] == pytest.approx(levels), "neighbours of one L0"
    assert into["into L0 8"][0] != into["into L0 8"][1], "control: a jump"
    assert set(skipped) == {FOLDED, DIRECTIONS, UNFOLDED, "drop", "current", "previous"}
    assert sum(series(table, "5")["all pairs"]) <= F


def test_descriptions_stand_between_chance_and_themselves(table: pl.DataFrame) -> None:
    found = series(table, "4")
    assert found[FOLDED] == found[DIRECTIONS] == found["same"] == [1, 1]
    assert max(found["random"]) == 0, "control"
    assert series(table, "8 described")[f"composed, {FOLDED}"] == [1, 1]
    assert max(series(table, "8 described")[CHANCE]) < 0.2
    assert series(table, "6")["same"] and not table.filter(figure="6", series="different")["value"].drop_nulls().len()


def test_the_page_holds_every_figure(story: Story, table: pl.DataFrame) -> None:
    page = story_page({"tiny": (table, nearest(story)), "other": (table, [])}, "scripted")
    for number in ("1:", "3:", "4 and 7", "5 and 6", "7, right", "10, 11 and 13", "12 and 14", "15 and 16"):
        assert page.count(f"<h3>Figure {number}") + page.count(f"<h3>Figures {number}") >= 2, number
    assert page.count("on other</h3>") == 2 and "tiny, matching score" in page and "topic " in page
    bare = story_page({"tiny": (table.filter(pl.col("figure") == "7"), [])}, "scripted")
    assert "Figure 1:" not in bare and "Figures 7, right" in bare, "control: what is not there is not drawn"
