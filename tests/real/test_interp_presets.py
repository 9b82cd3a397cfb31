"""The embedded data sets hold what every preset of the suite asks of them."""

import numpy as np
import pytest

from saelab.core.errors import UserError
from saelab.interp.suite import scr
from saelab.interp.suite.config import SuiteConfig
from saelab.interp.suite.evaluation import readings_of
from saelab.interp.suite.labelled import load_labelled
from saelab.interp.suite.readings import ClassReading
from saelab.interp.suite.sae_probes import SetsReading
from saelab.interp.suite.scr import PairReading
from saelab.interp.suite.unlearning import TopicReading


@pytest.mark.real
@pytest.mark.parametrize("preset", ["paper", "small", "tiny"])
def test_every_preset_finds_its_texts(preset: str) -> None:
    seen = set()
    for reading in readings_of(SuiteConfig.model_validate({"preset": preset})):
        seen.add(type(reading))
        if isinstance(reading, ClassReading):
            data, tasks = reading.tasks(0)
            assert tasks and max(int(t.split.train.max()) for t in tasks) < len(data.texts)
        elif isinstance(reading, PairReading):
            data, tasks = reading.tasks(0)
            corners = set(zip(data.labels, data.attributes or (), strict=True))
            assert len(corners) == 4 and len(np.unique(tasks.concept.test)) == len(tasks.concept.test)
        elif isinstance(reading, SetsReading):
            assert reading.tasks(0)[0]
        elif isinstance(reading, TopicReading):
            assert len(load_labelled(reading.topic[0]).rows(reading.topic[1])) >= reading.contexts
    assert {ClassReading, PairReading, SetsReading, TopicReading} <= seen


@pytest.mark.real
def test_a_preset_that_asks_for_more_is_refused() -> None:
    """The control: one text more than the rarest corner has."""
    small = scr.PRESETS["small"]
    reading = PairReading(pair=small.pairs[0], n_train=small.n_train + 1, n_test=small.n_test, context=64)
    with pytest.raises(UserError, match="are needed"):
        reading.tasks(0)
