"""AxBench's files with two small concepts, for the tests that read them."""

import json
from pathlib import Path

import polars as pl


def write_axbench(folder: Path) -> Path:
    """Two concepts in AxBench's layout: the sea (text) and loops (code)."""
    words = {0: ("sea", "waves on the sea by the harbour"), 1: ("loops", "for i in range loop again")}
    genres = {0: "text", 1: "code"}
    lines = [
        {
            "concept_id": i,
            "concept": name,
            "ref": f"https://np/gemma-2-2b/20/{i + 40}",
            "concept_genres_map": {name: [genres[i]]},
        }
        for i, (name, _) in words.items()
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    plain = "the office was closed on monday"
    train, evaluation = [], []
    for i, (name, text) in words.items():
        for k in range(6):
            train.append((f"Say {k}.", f"{text} {k}", name, genres[i], "positive", "instruction", i))
            train.append((f"Ask {k}.", f"{plain} {k}", "EEEEE", genres[i], "negative", "instruction", -1))
            evaluation.append((f"Tell {k}.", f"{text} now {k}", name, genres[i], "positive", "instruction", i))
            evaluation.append((f"Tell {k}.", f"{plain} now {k}", "", genres[i], "negative", "instruction", i))
        evaluation.append(("Tell.", "a sea of troubles", "sea//sense", genres[i], "hard negative", "instruction", i))
    columns = ["input", "output", "output_concept", "concept_genre", "category", "dataset_category", "concept_id"]
    pl.DataFrame(train, columns, orient="row").write_parquet(folder / "train_data.parquet")
    pl.DataFrame(evaluation, columns, orient="row").write_parquet(folder / "latent_eval_data.parquet")
    return folder
