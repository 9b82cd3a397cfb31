"""What is said of the features of a run is what its tables hold; what is not there is named with its command."""

import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.explore.compare import side_by_side
from saelab.explore.opened import Explored, open_explored
from saelab.explore.partners import Partners
from saelab.interp.features.material import write_material
from saelab.store.layout import RunFolder
from saelab.study.spec import StudyConfig, saes_of
from some_material import F, source_of

SITES = ("resid_post.0", "resid_post.1")


def names_of(run: RunFolder) -> dict[tuple[str, int], str]:
    return {(s.site, s.seed): s.name for s in saes_of(StudyConfig.from_yaml(run.study))}


def matched(run: RunFolder, first: str, second: str) -> None:
    """Feature i goes to i + 1, the third dies; the full matching pairs all of them."""
    a = list(range(F))
    partner = [None if i == 3 else (i + 1) % F for i in a]
    table = {"a": a, "b": [(i + 1) % F for i in a], "cosine": [0.5 + i / 100 for i in a], "partner": partner}
    table |= {"class": ["died" if p is None else "carried on" for p in partner], "distance": [i / 50 for i in a]}
    place = run.matching(first, second)
    place.matching.write(pl.DataFrame(table).cast({"partner": pl.Int64}))
    place.quality.write({})


def test_what_a_run_holds_is_said_and_what_not_is_named(run: RunFolder) -> None:
    names = names_of(run)
    one = names[SITES[0], 0]
    effects = {"feature": [1, 2, 5], "kl": [0.1, 0.4, 0.2], "random": [0.5, 0.1, 0.2]}
    run.selection(one).effects.write(pl.DataFrame(effects))
    lifts = {"feature": [2, 2, 5, 5], "arm": ["random"] * 4, "outcome": ["described", "read_back"] * 2}
    run.steering(one).outcomes.write(pl.DataFrame(lifts | {"lift": [0.3, 0.1, -0.2, None], "dose": [0.5] * 4}))
    texts = {"feature": [2, 2], "prompt": ["I"] * 2, "text": ["a", "b"], "strength": [3.0] * 2}
    run.steering(one).readings.write(pl.DataFrame(texts | {"described": [0.7, 0.2], "described_lift": [0.2, 0.4]}))
    explored = open_explored([run.root])
    assert explored.names == list(names.values())
    assert {m.what for m in explored.missing if m.sae == one} == {"material", "interpretability", "partners"}
    assert all("saelab run" in m.command for m in explored.missing if m.what != "material")
    placed = explored.effects(one, 2)["kl"]
    assert (placed.value, placed.n, placed.share) == (0.4, 3, pytest.approx(2 / 3))
    assert set(explored.effects(one, 2)) == {"kl"}, "a control knows nothing of a feature"
    assert explored.effects(one, 3) == {} == explored.effects(names[SITES[1], 0], 2)
    assert explored.lifts(one, 2)["described_lift"].value == 0.3 and "read_back_lift" not in explored.lifts(one, 5)
    (first, _) = explored.steered(one, 2)
    assert (first.arms, first.text, first.dose, first.scores) == (("random",), "a", 0.5, {"described": 0.7})
    best = explored.index.search(sort="described_lift", limit=1).rows[0]
    assert (best["sae"], best["feature"], best["kl"]) == (one, 2, 0.4)
    with pytest.raises(UserError, match="No SAE nothing is open"):
        explored.material("nothing")


def test_partners_and_paths_are_those_of_the_matchings(run: RunFolder) -> None:
    names = names_of(run)
    a, b, other = names[SITES[0], 0], names[SITES[1], 0], names[SITES[0], 1]
    matched(run, a, b)
    matched(run, a, other)
    explored = open_explored([run.root])
    found = {p.sae: p for p in explored.partners(a, 7)}
    assert (found[b].feature, found[b].relation, found[b].kind, found[b].forward) == (8, "site", "carried on", True)
    assert found[b].distance == 7 / 50 and found[b].cosine == pytest.approx(0.57)
    assert found[other].relation == "seed"
    (back,) = explored.partners(b, 8)
    assert (back.sae, back.feature, back.forward) == (a, 7, False)
    died = {p.sae: p for p in explored.partners(a, 3)}[b]
    assert (died.feature, died.kind, died.distance) == (4, "matched", None), "the full matching's pair, not a class"
    assert explored.path(b, 8) == explored.path(a, 7) == [(a, 7), (b, 8)]
    assert explored.path(a, 3) == [(a, 3)] and explored.path(b, 4) == [(b, 4)]
    rows = explored.index.table.filter(pl.col("sae") == a)
    assert rows.row(3, named=True)["class"] == "died" and rows["stability"][7] == pytest.approx(0.57)
    one = explored.opened(a)
    table = side_by_side(explored.index, partners(explored, one.name), a, b)
    assert table.height == F and table["feature_b"].to_list()[2:5] == [3, None, 5]
    with pytest.raises(UserError, match=f"Compare {a} with {b}"):
        side_by_side(explored.index, partners(explored, a), b, a)


def partners(explored: Explored, name: str) -> Partners:
    found = explored.partners_of_run(explored.opened(name))
    assert found is not None
    return found


def test_a_run_that_kept_material_is_read_without_a_model(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    one, *others = names_of(run).values()
    source, _ = source_of()
    write_material(source, run.interp(one).material)
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: pytest.fail("the model is not needed"))
    explored = open_explored([run.root])
    assert explored.has_material(one) and not any(map(explored.has_material, others))
    live = explored.index.search("feature number", filters={"state": "live"}).rows
    assert live and {r["sae"] for r in live} == {one}
    assert explored.material(one).feature(live[0]["feature"]).contexts
    by_itself = open_explored([run.sae(one)])
    assert by_itself.names == [one] and by_itself.has_material(one), "an SAE of a run, named by itself"
    both = open_explored([run.root, run.sae(one)])
    assert len(set(both.names)) == len(both.names) == len(others) + 2
    with pytest.raises(UserError):
        open_explored([run.root / "interp"])
