"""The plain data of the smallest whole study: its model, text and instructions lie in a folder."""

import json
from pathlib import Path
from typing import Any

from saelab.lm.tiny import tiny_lm

Data = dict[str, Any]


def world(folder: Path) -> Data:
    """The plain data of a small study whose model, text and instructions lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lm = tiny_lm()
    lm.model.save_pretrained(folder / "lm")
    lm.tokenizer.save_pretrained(folder / "lm")
    lines = [f"the cat number {i} walks to the river and the house {i % 7} of the dog " * 12 for i in range(200)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (folder / "asked.txt").write_text("\n".join(f"Say something about the number {i}." for i in range(12)))
    grid = {"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [4], "d_sae": 48}
    return {
        "name": "small",
        "models": [{"lm": f"path:{folder / 'lm'}", "dtype": "float32", "grids": [grid]}],
        "text": {"corpus": {"source": f"path:{folder / 'text.jsonl'}"}, "context": 32, "train_contexts": 60,
                 "held_out_contexts": 6},
        "harvest": {"sink_ratio": 1000.0},
        "training": {"steps": 10, "batch": 128, "precision": "float32"},
        "interp": {"fidelity_contexts": 4, "window_rows": 1500, "n_scored": 24, "n_embedded": 0},
        "selection": {"criteria": ["kl"], "positions": "last"},
        "steering": {"arms": [{"criterion": "kl", "n": 1}, {"random": 3}]},
        "instrument": {"reader": "lexical", "classes": "none", "doses": [0.003, 0.01], "prompts": 1, "test_copies": 8,
                       "unsteered_copies": 30, "new_tokens": 4, "contexts": 60, "probe_contexts": 1, "n_dev": 3,
                       "n_random": 3},
        "instructions": str(folder / "asked.txt"),
        "resamples": 100,
    }  # fmt: skip
