"""Runs the demo in two number types with three seeds each: `python tools/demo_runs.py FOLDER`.

The study is the shipped one but for `dtype` and the seeds. What is finished is taken up, so a call can be repeated;
`tools/demo_page.py` reads the folder for its table of what is stable.
"""

import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

DTYPES, SEEDS = ("bfloat16", "float32"), (0, 1, 2)
SEEDED = ("instrument", "steering", "interp")


def variant(dtype: str, seed: int) -> dict[str, Any]:
    """The demo's study with another number type and other draws."""
    study = yaml.safe_load(resources.files("saelab.study").joinpath("demo.yaml").read_text(encoding="utf-8"))
    study["seed"] = seed
    study["models"][0]["dtype"] = dtype
    for part in SEEDED:
        study[part] = study.get(part, {}) | {"seed": seed}
    return study


def main(folder: Path) -> None:
    """Run all six, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for dtype in DTYPES:
            name = f"{dtype}.{seed}"
            (study := folder / f"{name}.yaml").write_text(yaml.safe_dump(variant(dtype, seed), sort_keys=False))
            code = "import sys; from saelab.cli import main; sys.exit(main())"
            command = [sys.executable, "-c", code, "run", str(study), "--out", str(folder / name)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
