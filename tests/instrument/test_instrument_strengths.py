"""How far features are moved: each by its own best dose, or by a factor of its largest activation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted_steering import SMALL, World

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.instrument.bench import Bench
from saelab.instrument.config import FACTORS, InstrumentConfig
from saelab.instrument.readers import Features
from saelab.instrument.strengths import factor_grid, reach_of

SHARED = {name: value for name, value in SMALL.model_dump().items() if name in InstrumentConfig.model_fields}
DOSES = (0.05, 0.8, 6.0)


def bench_at(world: World, **asked: Any) -> Bench:
    config = InstrumentConfig.parse(SHARED | {"doses": DOSES, "dev_copies": 6} | asked)
    return Bench(config, world.desk, world.probe, lambda name, write: write())


def chosen_by(bench: Bench, features: Features) -> dict[str, Any]:
    """As a site's dev would choose the second dose."""
    distances = [bench.distance("features", features, dose) for dose in DOSES]
    return {"dose": DOSES[1], "strength": distances[1], "state": "ok", "doses": list(DOSES), "distances": distances}


def test_every_feature_takes_its_own_best_dose(world: World) -> None:
    bench = bench_at(world, strength="feature_dev")
    chosen = chosen_by(bench, world.classes)
    found = reach_of(bench, "features", world.classes, chosen)
    reach = dict(zip(DOSES, chosen["distances"], strict=True))
    assert [reach[dose] for dose in found.doses] == list(found.strengths)
    assert found.states.count("ok") >= 5 and len(found.doses) == len(world.classes)
    grid = {dose: (dose, reach[dose]) for dose in DOSES}
    dev = bench.over("features.dev", world.classes, range(6), grid)
    lifts = np.array([dev[dose].tables["described"]["lift"].to_list() for dose in DOSES])
    assert [DOSES[i] for i in lifts.argmax(0)] == list(found.doses)
    assert len(set(found.doses)) > 1, "one dose for all would lose lift"
    # Control: what steers by a random direction shows at no dose, is moved as the site is, and says so.
    rng = numpy_generator("directions of nothing")
    drawn = rng.normal(size=world.classes.directions.shape)
    nothing = replace(world.classes, directions=drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    lost = reach_of(bench, "features", nothing, chosen)
    idle = [i for i, state in enumerate(lost.states) if state == "no_dev_signal"]
    assert len(idle) >= 5
    assert {(lost.doses[i], lost.strengths[i]) for i in idle} == {(chosen["dose"], chosen["strength"])}


def test_texts_are_written_at_each_features_own_dose(world: World) -> None:
    bench = bench_at(world, strength="feature_dev")
    doses, reach = (0.05, 0.8, 0.8, 0.05, 0.8, 0.8), (1.0, 3.0, 3.0, 1.0, 3.0, 3.0)
    found = bench.measured("features", world.classes, doses, range(1), reach).steered
    assert found["dose"].to_list() == [doses[k] for k in found["owner"]]
    assert found["strength"].to_list() == [reach[k] for k in found["owner"]]
    assert found["share"].to_list() == pytest.approx([reach[k] / bench.probe.norm for k in found["owner"]])


def test_a_factor_moves_by_the_largest_activation(world: World) -> None:
    peaks = np.linspace(1.0, 3.5, len(world.classes))
    features = replace(world.classes, peaks=peaks)
    bench = bench_at(world, strength="factors", factors=(0.1, 1.0, 40.0))
    grid = factor_grid(bench, features, (0.1, 1.0, 40.0))
    for factor, (nats, reach) in grid.items():
        assert reach == pytest.approx(factor * peaks)
        slow = np.median([bench.probe.kl(v, s) for v, s in zip(features.directions, factor * peaks, strict=True)])
        assert nats == pytest.approx(slow)
    assert grid[0.1][0] < grid[1.0][0] < grid[40.0][0]
    best, rows = bench.dev("features", features, range(2), grid)
    assert best.dose == 1.0, "too weak to be seen below, and broken above"
    assert [row["dose"] for row in rows[::2]] == [nats for nats, _ in grid.values()]
    chosen = {"dose": grid[1.0][0], "strength": 2.25, "factor": 1.0}
    found = reach_of(bench, "features", features, chosen)
    assert found.strengths == pytest.approx(peaks)
    # Control: one strength for all ignores the activations.
    assert set(reach_of(bench_at(world, strength="site"), "features", features, chosen).strengths) == {2.25}


def test_features_of_a_dictionary_know_their_largest_activation(world: World) -> None:
    assert np.isfinite(world.random.peaks).all() and (world.random.peaks > 0).all()
    assert np.isnan(world.classes.peaks).all(), "a class has no activation"


def test_factors_have_to_be_factors() -> None:
    assert InstrumentConfig().factors == FACTORS and "factors" not in InstrumentConfig().settings
    assert InstrumentConfig(strength="factors").settings["factors"] == list(FACTORS)
    for wrong in ((1.0, 1.0), (0.0, 1.0), (-1.0,)):
        with pytest.raises(UserError, match="distinct and positive"):
            InstrumentConfig.parse({"factors": wrong})
