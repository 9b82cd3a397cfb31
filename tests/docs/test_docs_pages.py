"""The pages say what the code says: every key of a study, every public name, every verb; and no link leads nowhere."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import Field

import saelab
from saelab.cli import VERBS
from saelab.core.config import Config
from saelab.lm.tiny import tiny_lm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
five = runpy.run_path(str(ROOT / "tools" / "five_jobs.py"))
keys = runpy.run_path(str(ROOT / "tools" / "study_keys.py"))
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def test_the_page_of_keys_is_that_of_the_configs() -> None:
    assert (DOCS / "study-keys.md").read_text(encoding="utf-8") == keys["page"](), (
        "python tools/study_keys.py docs/study-keys.md"
    )


def test_a_key_without_a_sentence_stops_the_page() -> None:
    class Silent(Config):
        n: int = 3

    class Said(Config):
        n: int = Field(default=3, ge=1, description="How many.")

    with pytest.raises(SystemExit, match=r"Silent\.n has no sentence"):
        list(keys["_section"](Silent, "", "x"))
    assert "| `n` | whole number, ≥ 1 | `3` | How many. |" in "".join(keys["_section"](Said, "", "x"))


def test_every_page_is_in_the_site() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [page for section in nav for pages in section.values() for entry in pages for page in entry.values()]
    assert sorted(listed) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def dead_links(page: Path, text: str) -> list[str]:
    """Relative links of a page to files that are not there."""
    found = [m[1] for m in LINK.finditer(text) if not re.match(r"[a-z]+:", m[1])]
    return [link for link in found if not (page.parent / link).exists()]


def test_no_link_leads_nowhere() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    found = {str(p.relative_to(ROOT)): dead_links(p, p.read_text(encoding="utf-8")) for p in pages}
    assert not {name: links for name, links in found.items() if links}
    assert dead_links(DOCS / "index.md", "[a](none.md) [b](guide.md#x) [c](https://a.b)") == ["none.md"], "control"


def nowhere(text: str) -> list[str]:
    """What a page names as `room/file.py` or `room/file.name` and the code does not hold."""
    src, lost = ROOT / "src" / "saelab", []
    for place, name in re.findall(r"`((?!tests/)[a-z_]+(?:/\w+)+)\.?(\w*)(?:\.\w+)?`", text):
        file, held = src / f"{place}.py", name in ("", "py")
        known = file.exists() and (held or re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")))
        lost += [] if known or (held and (src / place).is_dir()) else [f"{place}.{name}"]
    return lost


def test_the_glossary_names_what_there_is() -> None:
    assert not nowhere((DOCS / "glossary.md").read_text(encoding="utf-8"))
    assert nowhere("`stats/lift.py` `core/sites.Site` `core/sites.Place` `interp/suite`") == [
        "stats/lift.py", "core/sites.Place",
    ], "control"  # fmt: skip


def test_every_public_name_is_on_the_page_of_python() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert {line.rpartition(".")[2] for line in page.splitlines() if line.startswith(":::")} >= set(saelab.__all__)


def test_the_readme_names_every_verb() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [verb for verb in VERBS if not re.search(rf"\b{verb}\b", readme)]


def test_five_jobs_take_what_the_readme_says() -> None:
    """Three commands at most, and no verb or flag that the README does not name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    jobs = five["jobs"](five["Sizes"]("smollm2-135m", ("resid_post.14", "resid_post.15"), 2048, 32, "1M", (1, 2)))
    assert len(jobs) == 5 and all(len(job.commands) <= 3 for job in jobs)
    words = {word for job in jobs for command in job.commands for word in re.findall(r"saelab \w+|--[\w-]+", command)}
    assert {"saelab train", "--text"} <= words and not [word for word in words if word not in readme]


@pytest.mark.sweep
@pytest.mark.timeout(1200)
def test_the_five_jobs_on_a_tiny_model(tmp_path: Path) -> None:
    lm = tiny_lm(n_layers=4)
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    where = ["--lm", f"path:{tmp_path / 'lm'}", "--sites", "resid_post.1", "resid_post.2", "--only", "1", "2", "3", "5"]
    sizes = [
        "--d-sae",
        "48",
        "--l0",
        "4",
        "--tokens",
        "8K",
        "--features",
        "1",
        "2",
        "--page",
        str(tmp_path / "page.md"),
    ]
    tool = [sys.executable, str(ROOT / "tools" / "five_jobs.py"), str(tmp_path / "five")]
    done = subprocess.run([*tool, *where, *sizes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == 4 and "| together |" in page and str(tmp_path / "five") not in page


@pytest.mark.sweep
@pytest.mark.timeout(1200)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    needed = ["mkdocs-material", "mkdocstrings[python]", "ruff"]
    constraints = str(ROOT / "constraints.txt")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-c", constraints, *needed], check=True)
    done = subprocess.run(
        [str(python), "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    assert "load_sae" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
