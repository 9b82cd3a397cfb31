"""One tiny model per family, made once."""

from functools import cache

import pytest

from saelab.lm import families
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm

FAMILIES = tuple(family.name for family in families.FAMILIES.values())  # all: a new one is tried as soon as it is there


@cache
def tiny(family: str) -> LanguageModel:
    return tiny_lm(family, n_layers=4)


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    """A tiny model of each family in turn (four blocks; sliding windows of 8 in the Gemmas)."""
    return tiny(request.param)


@pytest.fixture
def llama() -> LanguageModel:
    """The tiny Llama."""
    return tiny("llama")
