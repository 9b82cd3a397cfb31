"""A tracker gets the figures of the metrics table when asked for, and nothing is imported when not."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from saelab.core.errors import MissingDependency, UserError
from saelab.training.sinks import VARIABLE, tracker


class Fake:
    """What wandb and trackio share."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            init=lambda **about: self.calls.append(about),
            log=lambda figures, step: self.calls.append((step, figures)),
            finish=lambda: self.calls.append("finished"),
        )


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_figures_reach_the_tracker(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, kind, fake.module())  # pyright: ignore
    monkeypatch.setenv(VARIABLE, kind)
    sink = tracker(name="a run")
    assert sink is not None
    sink.log({"topk/fvu": 0.5}, 3)
    sink.close()
    assert fake.calls == [{"project": "saelab", "name": "a run"}, (3, {"topk/fvu": 0.5}), "finished"]


def test_without_a_wish_there_is_no_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert tracker(name="a run") is None


def test_an_unknown_or_missing_tracker_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Did you mean wandb"):
        tracker("wandbb", name="a run")
    monkeypatch.setitem(sys.modules, "trackio", None)  # pyright: ignore
    with pytest.raises(MissingDependency, match="trackio is not installed"):
        tracker("trackio", name="a run")
