"""The wheel, in environments of their own: alone it helps, counts and writes pages; with the extra it trains."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saelab.core.errors import MissingDependency
from tiny_world import world

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
TABLE = "a,b,g\n1,2,x\n2,1,x\n3,4,y\n4,3,y\n5,6,x\n6,5,y\n7,7,x\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git would carry, so that nothing that lies about gets in."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    pip(Path(sys.executable), "wheel", "--no-deps", "-w", str(dist), str(source))
    (found,) = dist.glob("saelab-*.whl")
    return found


def pip(python: Path, *words: str) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def environment(folder: Path, *what: str) -> Path:
    """The Python of a new environment with these installed, from nowhere near the source."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip(python, "install", "-c", str(ROOT / "constraints.txt"), *what)
    return python


def saelab(python: Path, folder: Path, *words: str) -> tuple[int, str, str]:
    """What the command answers in a folder: exit code, output, errors."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SAELAB_CACHE": str(folder / "cache")}
    command = [str(python.parent / "saelab"), *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """Help, statistics and a page work without torch; the rest says what to install."""
    study = tmp_path / "study.json"
    study.write_text(json.dumps(world(tmp_path / "in")))  # JSON is YAML
    here = Path(sys.executable)
    code, _, errors = saelab(here, tmp_path, "run", str(study), "--out", "run")
    assert code == 0, errors
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "table.csv").write_text(TABLE)

    python = environment(tmp_path / "venv", str(wheel))
    assert subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 1
    assert saelab(python, tmp_path, "--help")[0] == 0
    assert subprocess.run([str(python), "-m", "saelab", "--version"], capture_output=True, check=True).stdout
    code, rows, _ = saelab(python, tmp_path, "stats", "table.csv", "--x", "a", "--y", "b", "--json")
    assert code == 0 and json.loads(rows)[0]["n"] == 7
    code, _, errors = saelab(python, tmp_path, "report", "run")
    assert code == 0, errors
    assert json.loads((tmp_path / "run" / "results.json").read_text())["verdict"]
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    code, doctor, _ = saelab(python, tmp_path, "doctor", "--json")
    assert code == 0 and "missing" in json.loads(doctor)["[lm]"]
    code, _, errors = saelab(python, tmp_path, "demo")
    assert code == MissingDependency.exit_code and "Traceback" not in errors
    assert errors.splitlines()[-1].strip() == "pip install 'saelab[lm]'"


def test_the_wheel_with_the_extra(wheel: Path, tmp_path: Path) -> None:
    """A few SAEs are trained on a model and text of one's own, and looked at: every file they need is in the wheel."""
    world(tmp_path / "in")
    python = environment(tmp_path / "venv", "torch==2.13.0", f"saelab[lm] @ {wheel.as_uri()}")
    code, doctor, errors = saelab(python, tmp_path, "doctor", "--json")
    assert code == 0 and json.loads(doctor)["[lm]"] == "ready", errors
    what = ["--lm", "path:in/lm", "--site", "resid_post.1", "--text", "path:in/text.jsonl"]
    sizes = ["--arch", "topk", "--l0", "4", "--d-sae", "32", "--tokens", "8K", "--out", "mine"]
    code, _, errors = saelab(python, tmp_path, "train", *what, *sizes)
    assert code == 0, errors
    sae = "mine/saes/topk.l0_4.resid_post.1"
    code, told, errors = saelab(python, tmp_path, "feature", sae, "0", "1", "--no-steer", "--json")
    assert code == 0 and json.loads(told), errors
    code, _, errors = saelab(python, tmp_path, "convert", sae, "other", "--to", "saelens")
    assert code == 0, errors
    code, _, errors = saelab(python, tmp_path, "new", "study.yaml", *what)
    assert code == 0, errors
    code, _, errors = saelab(python, tmp_path, "plan", "study.yaml")
    assert code == 0, errors
