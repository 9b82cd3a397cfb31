"""Without the extras nothing ends in a traceback: help, statistics and pages work, every other verb names the one
command that installs what it needs."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import saelab
from saelab.cli import VERBS, main
from saelab.core import errors
from saelab.core.extras import BROUGHT_BY, absent, extras

ROOT = Path(__file__).parents[2]
OTHERS = {"sae_lens", "markupsafe"}  # asked for with a sentence of its own; what jinja2 brings
# Arguments of each verb; those that compute nothing but statistics and pages are left out.
ASKED = {
    "demo": "--out demo",
    "run": "no.yaml",
    "plan": "no.yaml",
    "evaluate": "path:sae",
    "train": "--lm gpt2 --site resid_post.1",
    "new": "study.yaml",
    "interp": "no.yaml",
    "select": "path:sae --lm gpt2",
    "feature": "path:sae 1",
    "explore": "path:sae",
    "steer": "path:sae 1 --prompt I --strength 4",
    "rate": "folder",
    "instrument": "--lm gpt2 --site resid_post.1 --out gate",
    "concepts": "folder --out axbench --site resid_post.1",
    "match": "path:sae path:sae",
    "inspect": "path:sae",
    "convert": "path:sae other --to saelens",
    "push": "path:sae path:other",
}


def third_party() -> set[str]:
    """What the package imports, anywhere, that is neither Python's nor its own."""
    found = set()
    for path in Path(saelab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"saelab"}


def in_base() -> set[str]:
    """Distributions that come without any extra."""
    names = [re.match(r"[\w.-]+", line) for line in metadata.requires("saelab") or [] if "extra" not in line]
    return {name[0].replace("-", "_").lower() for name in names if name} | {"yaml"}


def test_every_library_is_in_the_base_or_in_an_extra() -> None:
    for module in third_party() - OTHERS - in_base():
        missing = absent(ModuleNotFoundError(name=module))
        assert missing is not None, module
        assert re.fullmatch(r"pip install 'saelab\[\w+\]'", missing.hint or ""), module
    assert set(BROUGHT_BY) <= third_party(), "no name stands here for nothing"
    for other in ("no_such_library", "saelab", None):  # control: a fault of ours stays one
        assert absent(ModuleNotFoundError(name=other)) is None
    assert not {"dev", "docs"} & set(extras())


def test_each_verb_without_its_libraries_says_the_one_command(tmp_path: Path) -> None:
    """In a process whose imports of every extra's libraries fail as those of a missing library do."""
    assert set(ASKED) == set(VERBS) - {"stats", "report", "doctor"}, "each verb is asked"
    blocked = [m for m in third_party() if absent(ModuleNotFoundError(name=m))]
    code = (
        "import json, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from saelab.cli import main\n"
        "codes = {verb: main([verb, *words.split()]) for verb, words in json.loads(sys.argv[1]).items()}\n"
        "print(json.dumps(codes), file=sys.__stdout__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(ASKED)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(ASKED, errors.MissingDependency.exit_code)
    said = done.stderr.splitlines()
    assert len(said) == 2 * len(ASKED) and all("pip install 'saelab[" in hint for hint in said[1::2])


def test_a_name_of_the_face_without_its_libraries_says_it_too() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nimport saelab\nfrom saelab.core.errors import MissingDependency\n"
        "try:\n    saelab.LanguageModel\nexcept MissingDependency as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "This needs torch, which is not installed. pip install 'saelab[lm]'\n"


def test_a_fault_of_ours_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "saelab.cli.stats", None)
    with pytest.raises(ImportError, match=r"saelab\.cli\.stats"):
        main(["stats", "table.csv", "--x", "a", "--y", "b"])


def test_exit_codes_are_those_that_are_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    kinds = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.SaelabError)}
    assert kinds | {0, 8, 130} == listed


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_makefile_says_which_python(tmp_path: Path) -> None:
    """Before pip calls it a conflict of dependencies."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.13\nexit 1\n')
    old.chmod(0o755)
    make = ["make", "-C", str(ROOT), "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "saelab needs Python 3.11 or newer" in done.stdout + done.stderr
    assert "3.10.13" in done.stdout and not (tmp_path / "venv").exists()
