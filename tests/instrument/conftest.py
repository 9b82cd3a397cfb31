"""One planted world for all tests that only read it."""

import pytest
from planted_steering import World


@pytest.fixture(scope="session")
def world() -> World:
    return World(0)
