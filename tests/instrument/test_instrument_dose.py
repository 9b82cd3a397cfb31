"""Dose: KL by the slow way, distances that hit their dose, and a dev without signal as a state."""

import numpy as np
import pytest
import torch
from planted_steering import SITE, SMALL, World

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.instrument.bench import Bench
from saelab.instrument.config import InstrumentConfig
from saelab.instrument.dose import SKIPPED, choose, curve
from saelab.lm.edit import Add

SHARED = {name: value for name, value in SMALL.model_dump().items() if name in InstrumentConfig.model_fields}


def test_kl_is_the_kl_of_a_steered_pass(world: World) -> None:
    tokens = world.text.packed.tokens[: world.config.probe_contexts, :48].long()
    direction = world.classes.directions[0]
    edit = Add(SITE, torch.from_numpy(direction).float(), 1.5)
    plain, steered = (world.lm.logits(tokens, edits=e)[:, SKIPPED:].log_softmax(-1) for e in ([], [edit]))
    slow = (plain.exp() * (plain - steered)).sum(-1).mean()
    assert world.probe.kl(direction, 1.5) == pytest.approx(float(slow), rel=1e-4)
    assert world.probe.kl(direction, 0.0) == pytest.approx(0.0, abs=1e-6)


def test_a_dose_is_hit(world: World) -> None:
    directions = world.classes.directions
    found = curve(world.probe, directions, (0.1, 0.5, 1.5))
    for nats in (0.1, 0.5, 1.5):
        reached = np.median([world.probe.kl(v, found.distance(nats)) for v in directions])
        assert reached == pytest.approx(nats, rel=0.1)
    assert found.distance(0.1) < found.distance(0.5) < found.distance(1.5)
    with pytest.raises(UserError, match="never 1000"):
        found.distance(1000.0)


def test_the_best_dose_is_chosen_and_no_signal_is_a_state() -> None:
    rng = numpy_generator("dev")
    lifts = {d: rng.normal(mean, 0.2, 12) for d, mean in ((0.1, 0.2), (0.3, 0.6), (0.7, 0.3))}
    found = choose(lifts)
    assert (found.dose, found.state) == (0.3, "ok")
    flat = choose({d: rng.normal(0, 0.2, 12) - 0.05 for d in (0.1, 0.3, 0.7)})
    assert (flat.dose, flat.lift, flat.state) == (None, None, "no_dev_signal")
    assert choose({0.1: np.zeros(12), 0.3: np.full(12, np.nan)}).state == "no_dev_signal"


def test_every_direction_reaches_its_dose_where_all_are_asked(world: World) -> None:
    """Control: by the median alone the weakest direction may fall short."""
    weak = np.concatenate([world.classes.directions[:3], 1e-3 * world.classes.directions[:1]])
    alone, every = curve(world.probe, weak, [0.4]), curve(world.probe, weak, [0.4], every=True)
    assert alone.kl[3].max() < 0.4 and alone.reaches(0.4)
    assert every.distances[-1] > alone.distances[-1], "it was looked for further out"


def test_a_dose_that_no_distance_gives_stands_without_a_lift(world: World) -> None:
    config = InstrumentConfig.parse(SHARED | {"doses": (0.4, 1e4)})
    chosen, rows = Bench(config, world.desk, world.probe, lambda name, write: write()).dev("s", world.classes, range(2))
    assert chosen.dose in (0.4, None)
    assert [r["lift"] is None for r in rows] == [False, False, True, True]
