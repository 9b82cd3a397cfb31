"""A whole study that runs in seconds: a tiny language model on disk, random sentences, five SAEs."""

from pathlib import Path
from typing import Any

import pytest

from saelab.core.seeds import numpy_generator
from saelab.lm.tiny import tiny_lm
from saelab.study.spec import StudyConfig

WORDS = ["the", "cat", "dog", "house", "river", "mountain", "sings", "runs", "sleeps", "under", "over", "near",
         "quiet", "red", "green", "old", "bright", "and", "but"]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in the Hugging Face layout: any process can load it by its path."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    lm = tiny_lm(n_layers=4)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty texts."""
    folder = tmp_path_factory.mktemp("text")
    rng = numpy_generator("study text")
    for k in range(40):
        made = [" ".join(rng.choice(WORDS, 9)).capitalize() + "." for _ in range(30)]
        (folder / f"{k}.txt").write_text(" ".join(made))
    return folder


@pytest.fixture
def study_data(tiny_weights: Path, sentences: Path) -> dict[str, Any]:
    """The plain data of the study."""
    return {
        "name": "tiny",
        "models": [
            {
                "lm": f"path:{tiny_weights}",
                "dtype": "float32",
                "grids": [
                    {"sites": ["resid_post.1"], "architectures": ["topk", "jumprelu"], "levels": [4, 8], "d_sae": 48},
                    {"sites": ["resid_post.2"], "architectures": ["jumprelu"], "levels": [8], "d_sae": 48,
                     "steer": False},
                ],
                "paths": [{"architecture": "jumprelu", "level": 8, "sites": ["resid_post.1", "resid_post.2"]}],
            }
        ],
        "text": {
            "corpus": {"source": f"path:{sentences}"},
            "context": 32,
            "train_contexts": 160,
            "held_out_contexts": 16,
        },
        "harvest": {"shard_contexts": 64, "sink_ratio": 1000.0},
        "training": {"steps": 40, "batch": 256},
        "interp": {"fidelity_contexts": 8, "window_rows": 4000, "n_scored": 48, "n_embedded": 0},
        "selection": {"batch_size": 16},
        "steering": {
            "arms": [{"criterion": "delta_confidence", "n": 1}, {"criterion": "output_score", "n": 1}, {"random": 3}],
            "ratings": True, "n_control": 1, "factors": [1.0, 2.0],
            "n_dev": 1, "n_test": 1, "max_new_tokens": 6,
        },
        "instrument": {
            "reader": "lexical", "classes": "none", "doses": [0.003, 0.01], "prompts": 1, "test_copies": 8,
            "unsteered_copies": 30, "new_tokens": 6, "contexts": 160, "probe_contexts": 2, "n_dev": 4, "n_random": 4,
        },
        "matching": {"contexts": 8},
        "resamples": 100,
    }  # fmt: skip


@pytest.fixture
def study(study_data: dict[str, Any]) -> StudyConfig:
    """The study."""
    return StudyConfig.parse(study_data)
