"""Laws of what a running explorer holds: damaged material is none, a failed making is said and not repeated."""

import math
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from opened_world import make_world

from saelab.core.errors import ArtefactError, UserError
from saelab.explore.drawing import LEVELS, drawn_histogram, heat
from saelab.explore.feature_page import feature_page
from saelab.explore.index import FeatureIndex
from saelab.explore.material import Histogram, SaeMaterial
from saelab.explore.pages import LINKS
from saelab.explore.session import Session
from saelab.lm.model import LanguageModel


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    world = make_world(tmp_path)
    monkeypatch.setenv("SAELAB_CACHE", str(world.cache))
    return Session(world.opened())


def ready(session: Session) -> None:
    session.model.begin()
    while session.model.state["state"] == "loading":
        time.sleep(0.01)


def made(session: Session, sae: str = "plain") -> dict[str, Any]:
    """The page once nothing comes by itself any more."""
    page = feature_page(session, sae, 1, LINKS)
    while sae in session.under_way:
        time.sleep(0.05)
        page = feature_page(session, sae, 1, LINKS)
    return dict(page)


def test_a_making_that_failed_is_said_with_its_command_and_not_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(session)
    calls: list[str] = []

    def broken(name: str) -> None:
        calls.append(name)
        raise ValueError("bad text")

    monkeypatch.setattr(session.explored, "material", broken)
    pages = [made(session), made(session)]
    assert calls == ["plain"]
    for page in pages:
        assert not page["making"] and "bad text" in page["dead"]["said"]
        assert page["dead"]["command"].startswith("saelab explore ")
    monkeypatch.undo()
    assert made(session, session.names[1])["contexts"]  # control: the other SAE is made


def test_without_a_model_nothing_comes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path)
    monkeypatch.setenv("SAELAB_CACHE", str(world.cache))
    without = feature_page(Session(world.opened(), with_model=False), "plain", 1, LINKS)
    assert not without["making"] and "--no-use-lm" in without["dead"]["said"]
    assert feature_page(Session(world.opened()), "plain", 1, LINKS)["making"]  # control: the model is still to come


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)


def _emptied(path: Path) -> None:
    path.write_text("[]")


@pytest.mark.parametrize(
    ("file", "damage"),
    [("features-00000.parquet", _turned), ("text.parquet", _cut), ("manifest.json", _emptied)],
)
def test_damaged_material_is_none_and_is_made_anew(session: Session, file: str, damage: Any) -> None:
    ready(session)
    assert made(session)["contexts"] and made(session, session.names[1])["contexts"]
    folder = session.explored.opened("plain").material_folder.root
    damage(folder / file)
    with pytest.raises(ArtefactError):
        SaeMaterial(folder)
    again = Session(type(session.explored)(list(session.explored.saes.values())))
    page = feature_page(again, "plain", 1, LINKS)
    assert "damaged" in page["dead"]["said"] and not page["contexts"]
    assert feature_page(again, again.names[1], 1, LINKS)["contexts"]  # control: the other is as it was
    assert again.index.search("cat").total
    ready(again)
    assert made(again)["contexts"] and SaeMaterial(folder).n_features


def test_a_making_ends_with_the_explorer(session: Session) -> None:
    ready(session)
    session.end()
    feature_page(session, "plain", 1, LINKS)
    session.join(20)
    assert not session.explored.has_material("plain") and not session.failed
    assert not [t for t in threading.enumerate() if t.name.startswith("explorer: ")]


def test_an_unforeseen_failure_of_the_model_is_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> LanguageModel:
        raise AttributeError("no such thing")

    monkeypatch.setattr(LanguageModel, "load", load)
    ready(session)
    assert session.model.state["said"] == "no such thing"
    with pytest.raises(UserError, match="no such thing"):
        session.model.get()


def test_what_is_no_number_is_blank_and_passes_no_filter() -> None:
    table = pl.DataFrame({"sae": ["a"] * 3, "feature": [0, 1, 2], "density": [0.5, math.nan, 0.25]})
    index = FeatureIndex(table, {})
    rows = index.search(sort="density").rows
    assert [r["density"] for r in rows] == [0.5, 0.25, None]
    assert index.search(filters={"density": (0.3, None)}).total == 1
    assert drawn_histogram(Histogram((0.0, 1.0), (3,), 0.5, ())) is not None  # control
    for last, threshold in ((math.nan, 0.5), (math.inf, 0.5), (1.0, math.nan)):
        assert drawn_histogram(Histogram((0.0, last), (3,), threshold, ())) is None
    assert heat(math.inf, 1.0) == heat(math.nan, 1.0) == 0 and heat(1.0, 1.0) == LEVELS
