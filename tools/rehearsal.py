"""studies/paper.yaml from end to end on random language models: 90 SAEs from the stream, every stage, on Ray.

    python tools/rehearsal.py FOLDER                    # on a Ray of this machine
    python tools/rehearsal.py FOLDER --on here          # in this process
    python tools/rehearsal.py FOLDER --levels 50,80     # fewer SAEs
    python tools/rehearsal.py FOLDER --tokenizer gemma3-270m

Makes three Gemma 2 of two blocks and a text in FOLDER, runs the scale `rehearsal` of the study there and prints its
time, the processor time and the largest memory of a process. --tokenizer: that of a language model that is at hand,
instead of a byte-level one of 384 tokens; its vocabulary then decides most of the time.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

from saelab.core.seeds import numpy_generator
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.study.scales import read_study
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study

STUDY = Path(__file__).resolve().parents[1] / "studies" / "paper.yaml"
MODELS = ("first", "second", "third")
WORDS = ["the", "cat", "dog", "house", "river", "mountain", "sings", "runs", "sleeps", "under", "over", "near", "quiet",
         "red", "green", "old", "bright", "and", "but"]  # fmt: skip


def prepare(folder: Path, tokenizer: str | None = None) -> None:
    """Write the language models and the text below `folder`."""
    made = folder / "rehearsal"
    made.mkdir(parents=True, exist_ok=True)
    given = None if tokenizer is None else LanguageModel.load(tokenizer).tokenizer
    for seed, name in enumerate(MODELS):
        size = {} if given is None else {"vocab": len(given)}
        lm = tiny_lm("gemma2", n_layers=2, d_model=64, seed=seed, **size)
        lm.model.save_pretrained(made / name)
        (given or lm.tokenizer).save_pretrained(made / name)
    rng = numpy_generator("rehearsal")
    texts = [" ".join(" ".join(rng.choice(WORDS, 9)).capitalize() + "." for _ in range(30)) for _ in range(120)]
    (made / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def rehearsed(folder: Path, models: int, levels: list[int] | None) -> StudyConfig:
    """The study, with whole paths for those that work elsewhere; of fewer models or levels it is a smaller one."""
    study = read_study(STUDY, "rehearsal")
    data = json.loads(study.model_dump_json().replace("path:rehearsal/", f"path:{folder}/rehearsal/"))
    data["models"] = data["models"][:models]
    for grid in (grid for model in data["models"] for grid in model["grids"]):
        grid["levels"] = levels or grid["levels"]
    if models == 1:  # names of SAEs are then without the model's
        for model in data["models"]:
            model["paths"] = [{"saes": [n.partition(".")[2] for n in path["saes"]]} for path in model["paths"]]
    return StudyConfig.parse(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on", default="ray")
    parser.add_argument("--models", type=int, default=len(MODELS))
    parser.add_argument("--levels")
    parser.add_argument("--tokenizer")
    asked = parser.parse_args()
    prepare(asked.folder, asked.tokenizer)
    levels = None if asked.levels is None else [int(level) for level in asked.levels.split(",")]
    study, began = rehearsed(asked.folder.absolute(), asked.models, levels), time.perf_counter()
    page = run_study(study, asked.folder / "run", on=asked.on)
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    spent, most = sum(u.ru_utime + u.ru_stime for u in used), max(u.ru_maxrss for u in used) / 2**20
    size = sum(p.stat().st_size for p in page.parent.rglob("*") if p.is_file())
    print(
        f"{len(saes_of(study))} SAEs: {seconds / 60:.1f} minutes, {spent / 60:.1f} of processor time seen here, ",
        end="",
    )
    print(f"at most {most:.1f} GiB in one process, {size / 1e6:,.0f} MB on disk, load {os.getloadavg()[1]:.1f}: {page}")


if __name__ == "__main__":
    main()
