"""Five jobs as somebody does them who has read the README and nothing else, timed: docs/first-ten-minutes.md.

    python tools/five_jobs.py FOLDER --page docs/first-ten-minutes.md
    python tools/five_jobs.py FOLDER --only 4          one of them again; the page keeps what the others took

The text is the docstrings of Python's standard library, the "own" model the same weights as a folder, and the foreign
SAE one in SAELens' layout; all three are made before the clock starts. Every job is three commands at most, and an
edit of a file where a person would edit it.
"""

import argparse
import ast
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from saelab.core.hardware import cores
from saelab.lm.model import LanguageModel

SHOWN, WIDTH = 22, 100  # lines and columns of an output that the page keeps
HEAD = """\
# The first ten minutes

Five jobs with the commands of the README, as `tools/five_jobs.py` ran them: the commands, what they
said, and how long they took. The text is {texts} docstrings of Python's standard library, one to a
line of `notes.jsonl`; {lm}, whose weights were in the cache, is read on {tokens}
tokens of it. That is far too little for good SAEs, and enough to see every step.

{machine}

| job | minutes | of processor time | commands |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Sizes:
    """What the jobs are done with."""

    lm: str
    sites: tuple[str, str]
    d_sae: int
    l0: int
    tokens: str
    features: tuple[int, int]

    def sae(self, architecture: str, site: str) -> str:
        """An SAE's name in a run folder."""
        return f"{architecture}.l0_{self.l0}.{site}"


@dataclass(frozen=True)
class Job:
    """What is wanted, the commands, and what a person changes in a file after which of them."""

    title: str
    commands: Sequence[str]
    edits: dict[int, tuple[str, Callable[[Path], None]]] = field(default_factory=dict)


def jobs(s: Sizes) -> list[Job]:
    """The five."""
    first, second = s.sites
    size = f"--d-sae {s.d_sae} --tokens {s.tokens}"
    text, mine = "--text path:notes.jsonl", f"mine/saes/{s.sae('topk', second)}"
    one, other = (f"layers/saes/{s.sae('jumprelu', site)}" for site in s.sites)
    return [
        Job(
            "Features of my own text",
            [
                f"saelab train --lm {s.lm} --site {second} {text} --arch topk --l0 {s.l0} {size} --out mine",
                f"saelab feature {mine} {s.features[0]} {s.features[1]} {text}",
            ],
        ),
        Job(
            "Steer with a feature, at three strengths",
            [f'saelab steer {mine} {s.features[0]} --prompt "I think that" --strength 0.2 0.4 0.8'],
        ),
        Job(
            "What carries on from layer to layer",
            [
                f"saelab train --lm {s.lm} --site {first} {second} {text} --arch jumprelu --l0 {s.l0} {size} "
                "--out layers",
                f"saelab match {one} {other} --out pairs.parquet",
            ],
        ),
        Job(
            "A study of my own",
            [
                f"saelab new study.yaml --lm {s.lm} --site {second} {text} --arch topk,relu --l0 {s.l0} {size}",
                "saelab plan study.yaml",
                "saelab run study.yaml --out study",
            ],
            {0: ("half the random features, a smaller random dictionary, one dose: done sooner", _smaller)},
        ),
        Job(
            "A model of my own, and somebody else's SAE",
            [
                "saelab inspect path:theirs --lm path:own-model",
                f"saelab feature path:theirs {s.features[0]} --lm path:own-model {text}",
                f"saelab evaluate path:theirs path:{mine} --lm path:own-model --force-lm {text} --preset tiny "
                "--only fidelity,interp --out judged",
            ],
        ),
    ]


def _smaller(folder: Path) -> None:
    study = folder / "study.yaml"
    text = study.read_text()
    changed = text.replace("random: 24", "random: 12").replace("doses: [0.2, 0.5]", "n_random: 24\n  doses: [0.5]")
    assert changed.count("random: 12") == 1 and changed.count("n_random: 24") == 1
    study.write_text(changed)


def notes(folder: Path, characters: int = 2_000_000) -> int:
    """Write notes.jsonl; returns how many texts it has."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        said = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        texts += [t for t in said if len(t) > 200]
        if sum(map(len, texts)) > characters:
            break
    (folder / "notes.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return len(texts)


def prepare(folder: Path, s: Sizes) -> int:
    """The text and, as a folder, the model; the foreign SAE is made once there is one to convert."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "own-model").exists():
        lm = LanguageModel.load(s.lm)
        config = deepcopy(lm.model.config)
        if hasattr(config, "quantization_config"):  # read from GGUF, which cannot be written back as it is
            del config.quantization_config
        model = type(lm.model)(config).to(lm.model.dtype)
        model.load_state_dict(lm.model.state_dict())
        model.save_pretrained(folder / "own-model")
        lm.tokenizer.save_pretrained(folder / "own-model")
    return notes(folder)


def foreign(folder: Path, s: Sizes) -> None:
    """An SAE as SAELens writes it."""
    if not (folder / "theirs").exists():
        _run(f"saelab convert mine/saes/{s.sae('topk', s.sites[1])} theirs --to saelens", folder)


def _run(command: str, folder: Path) -> str:
    """What a command says; it must succeed."""
    words = shlex.split(command)
    env = os.environ | {"COLUMNS": str(WIDTH - 4)}
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stdout}\n{done.stderr}")
    return done.stdout.replace(f"{folder.resolve()}/", "")


def do(job: Job, folder: Path) -> dict[str, object]:
    """Run a job; its minutes and what each command said."""
    started, busy, said = time.monotonic(), _busy(), []
    for number, command in enumerate(job.commands):
        said.append(_run(command, folder))
        if number in job.edits:
            job.edits[number][1](folder)
    minutes, processor = (time.monotonic() - started) / 60, (_busy() - busy) / 60
    return {"minutes": minutes, "processor": processor, "load": os.getloadavg()[2], "said": said}


def _busy() -> float:
    """Seconds of processor time of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shown(said: str) -> str:
    """The first lines of an output, broken at the page's width."""
    lines = []
    for line in said.strip("\n").splitlines():
        hanging = " " * (len(line) - len(line.lstrip()) + 4)
        lines += textwrap.wrap(line, WIDTH - 4, subsequent_indent=hanging) or [""]
    return "\n".join([*lines[:SHOWN], *(["..."] if len(lines) > SHOWN else [])])


def page(found: dict[str, dict], all_jobs: Sequence[Job], head: str) -> str:
    """The page, of the jobs that were done."""
    done = [(n, job, found[str(n)]) for n, job in enumerate(all_jobs, 1) if str(n) in found]
    rows = [
        f"| {n}. {job.title} | {got['minutes']:.1f} | {got['processor']:.1f} | {len(job.commands)} |\n"
        for n, job, got in done
    ]
    wall, busy = (sum(got[what] for *_, got in done) for what in ("minutes", "processor"))
    total = f"| together | {wall:.1f} | {busy:.1f} | |\n"
    parts = [head + "".join(rows) + total]
    for n, job, got in done:
        parts.append(f"## {n}. {job.title}\n")
        for number, command in enumerate(job.commands):
            parts.append("```sh\n" + " \\\n    ".join(_broken(command)) + "\n```\n")
            if text := shown(got["said"][number]):
                parts.append(f"```text\n{text}\n```\n")
            if number in job.edits:
                parts.append(f"Changed in the file: {job.edits[number][0]}.\n")
    return "\n".join(parts)


def _broken(command: str) -> list[str]:
    """A command over several lines where it is longer than the page is wide."""
    lines = [""]
    for word in command.split(" --"):
        word = word if lines == [""] else f"--{word}"
        if lines[-1] and len(lines[-1]) + len(word) > 84:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--sites", nargs=2, default=["resid_post.14", "resid_post.15"])
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--tokens", default="100K")
    parser.add_argument("--features", type=int, nargs=2, default=[12, 34])
    asked = parser.parse_args()
    s = Sizes(asked.lm, tuple(asked.sites), asked.d_sae, asked.l0, asked.tokens, tuple(asked.features))
    texts = prepare(asked.folder, s)
    kept = asked.folder / "jobs.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    all_jobs = jobs(s)
    for number in asked.only:
        if number == 5:
            foreign(asked.folder, s)
        found[str(number)] = do(all_jobs[number - 1], asked.folder)
        kept.write_text(json.dumps(found))
        print(f"{number}. {all_jobs[number - 1].title}: {found[str(number)]['minutes']:.1f} minutes", flush=True)
    threads = "one thread a command" if os.environ.get("OMP_NUM_THREADS") == "1" else "all threads a command"
    load = f"load average {max((got['load'] for got in found.values()), default=0):.0f}"
    machine = f"Machine: {cores()} cores ({platform.machine()}), {threads}, beside other work ({load})."
    if asked.page is not None:
        head = HEAD.format(texts=f"{texts:,}", lm=s.lm, tokens=s.tokens, machine=machine)
        asked.page.write_text(page(found, all_jobs, head), encoding="utf-8")


if __name__ == "__main__":
    main()
