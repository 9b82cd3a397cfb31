"""What all tests share: one thread per process (two run side by side), and the real language model, loaded once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from saelab.lm.model import LanguageModel


@pytest.fixture(scope="session")
def smollm() -> "LanguageModel":
    """SmolLM2-135M-Instruct. Tests that ask for it fail, not skip, where the weights cannot be had."""
    from saelab.lm.model import LanguageModel

    return LanguageModel.load("smollm2-135m")
