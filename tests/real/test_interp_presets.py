"""The embedded data sets hold what every preset of the suite asks of them."""

import numpy as np
import pytest

from saelab.core.errors import UserError
from saelab.interp.suite import scr
from saelab.interp.suite.config import SuiteConfig
from saelab.interp.suite.data_sets import ClassSet
from saelab.interp.suite.evaluation import data_sets_of
from saelab.interp.suite.labelled import load_labelled
from saelab.interp.suite.sae_probes import ProbeSets
from saelab.interp.suite.scr import PairSet
from saelab.interp.suite.unlearning import TopicSet


@pytest.mark.real
@pytest.mark.parametrize("preset", ["paper", "small", "tiny"])
def test_every_preset_finds_its_texts(preset: str) -> None:
    seen = set()
    for data_set in data_sets_of(SuiteConfig.model_validate({"preset": preset})):
        seen.add(type(data_set))
        if isinstance(data_set, ClassSet):
            data, tasks = data_set.tasks(0)
            assert tasks and max(int(t.split.train.max()) for t in tasks) < len(data.texts)
        elif isinstance(data_set, PairSet):
            data, tasks = data_set.tasks(0)
            corners = set(zip(data.labels, data.attributes or (), strict=True))
            assert len(corners) == 4 and len(np.unique(tasks.concept.test)) == len(tasks.concept.test)
        elif isinstance(data_set, ProbeSets):
            assert data_set.tasks(0)[0]
        elif isinstance(data_set, TopicSet):
            assert len(load_labelled(data_set.topic[0]).rows(data_set.topic[1])) >= data_set.contexts
    assert {ClassSet, PairSet, ProbeSets, TopicSet} <= seen


@pytest.mark.real
def test_a_preset_that_asks_for_more_is_refused() -> None:
    """The control: one text more than the rarest corner has."""
    small = scr.PRESETS["small"]
    data_set = PairSet(pair=small.pairs[0], n_train=small.n_train + 1, n_test=small.n_test, context=64)
    with pytest.raises(UserError, match="are needed"):
        data_set.tasks(0)
