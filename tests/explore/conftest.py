"""One world and one server for all tests of the explorer; the material is there before the server starts."""

from collections.abc import Iterator

import pytest
from opened_world import NAMES, Server, World, make_world, serving


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("explored"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAELAB_CACHE", str(made.cache))
        explored = made.opened()
        for name in NAMES:
            explored.material(name)
    return made


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[Server]:
    with serving(world) as running:
        yield running
