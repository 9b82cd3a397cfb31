"""What the pages say, as plain data: of older runs, of a search, and as a command that does the same again."""

import shlex
from pathlib import Path

import polars as pl
import pytest
from opened_world import World, make_world

from saelab.explore import steer_live
from saelab.explore.browse import browse_page, rows_of
from saelab.explore.export import write_pages
from saelab.explore.feature_page import feature_page
from saelab.explore.opened import open_explored
from saelab.explore.pages import LINKS
from saelab.explore.recipes import recipe
from saelab.explore.session import Session
from saelab.store.layout import RunFolder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> World:
    """SAEs by themselves that have no material."""
    return make_world(tmp_path_factory.mktemp("bare"))


def test_a_prompt_that_begins_with_a_hyphen_stays_a_prompt(bare: World) -> None:
    session = Session(bare.opened(), with_model=False)
    data = {"prompt": "--lm 'x' $y", "features": [{"sae": "plain", "feature": 1, "share": -0.2}], "scales": [1]}
    written = shlex.split(recipe(session, steer_live.asked(data), "command"))
    assert "--prompt=--lm 'x' $y" in written
    assert written.count("--lm") == 1, "control: the option itself"


def test_a_density_is_filtered_in_percent_as_it_is_shown(run: RunFolder) -> None:
    one = next(p.name for p in run.saes.iterdir())
    features = {"feature": [0, 1, 2], "density": [0.004, 0.02, 0.3], "max_activation": [1.0, 1.0, 0.0]}
    rest = {name: [0.5, 0.75, 0.9] for name in ("balanced_accuracy", "auroc", "embedding_auroc")}
    run.interp(one).features.write(pl.DataFrame(features | rest | {"description": ["a", "b", "c"]}))
    session = Session(open_explored([run.root]), with_model=False)
    kept = rows_of(session, {"density.low": "1", "density.high": "5"}, LINKS)["rows"]
    assert [(r["feature"], r["cells"]["density"]) for r in kept] == [(1, "2.000 %")]
    assert rows_of(session, {"density.low": "50"}, LINKS)["total"] == 0
    first = [r["feature"] for r in rows_of(session, {"sae": one}, LINKS)["rows"]]
    assert first[:2] == [1, 0] and rows_of(session, {"sort": "number"}, LINKS)["rows"][0]["feature"] == 0
    lines = browse_page(session, LINKS)["missing"]
    assert len({line["said"].split(" of ")[0] for line in lines}) == len(lines), "a line for all SAEs"


def test_an_exported_page_has_no_empty_address(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAELAB_CACHE", str(world.cache))
    session = Session(world.opened(), with_model=False)
    first = write_pages(session, tmp_path / "pages", most=3)
    pages = sorted(first.parent.rglob("*.html"))
    assert len(pages) == 1 + 3 * len(session.names)
    for page in pages:
        text = page.read_text()
        assert 'href=""' not in text and 'href="' in text
    top = rows_of(session, {"sae": "plain", "limit": "3"}, LINKS)["rows"]
    assert {p.stem for p in (first.parent / "sae" / "plain").glob("*.html")} == {str(r["feature"]) for r in top}


def test_a_feature_of_an_older_run_shows_what_the_run_kept(run: RunFolder) -> None:
    one = next(p.name for p in run.saes.iterdir())
    told = {"feature": [1], "density": [0.25], "max_activation": [3.5], "description": ["“cat”"]}
    scores = {name: [0.75] for name in ("balanced_accuracy", "auroc", "embedding_auroc")}
    run.interp(one).features.write(pl.DataFrame(told | scores))
    rows = {"feature": [1, 1], "rank": [1, 0], "tokens": [["a", " cat"], [" the", " cat"]], "peak": [1, 1]}
    rows |= {"activations": [[0.0, 2.0], [0.5, 3.5]], "document": [0, 1]}
    run.interp(one).contexts.write(pl.DataFrame(rows))
    session = Session(open_explored([run.root]), with_model=False)
    page = feature_page(session, one, 1, LINKS)
    assert [t["value"] for t in page["tiles"][:2]] == ["25.000 %", "3.50"]
    (group,) = page["contexts"]
    assert ["".join(t["text"] for t in c["tokens"]) for c in group["contexts"]] == [" the cat", "a cat"]
    none = feature_page(session, one, 2, LINKS)
    assert none["contexts"] == [] and none["tiles"] == [], "control: a feature that the run did not keep"
