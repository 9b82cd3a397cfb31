"""One small steered run for all tests of the human check."""

from collections.abc import Iterator

import pytest

from saelab.store.layout import RunFolder
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study
from tiny_world import world


@pytest.fixture(scope="session")
def steered_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A run of one SAE and its random dictionary, read by words in common."""
    folder = tmp_path_factory.mktemp("rated")
    run_study(StudyConfig.parse(world(folder / "in")), folder / "run")
    yield RunFolder(folder / "run")
