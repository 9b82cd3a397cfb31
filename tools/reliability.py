"""Tries what a run folder may meet, on a tiny study, and writes docs/reliability.md: a row per trial, with its command.

    python tools/reliability.py --work FOLDER                 # all of it
    python tools/reliability.py --work FOLDER --only flips    # one row; the others keep what was measured before

Every trial compares with an undisturbed run, file by file. Each launcher is a process of its own (forked, so that torch
is imported once). Rows that tests show by themselves name the test. Must never be imported by the library.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import polars  # noqa: F401  (with the others: once, before launchers are forked)
import sklearn.linear_model  # noqa: F401
import torch
import yaml

from saelab import workflow  # noqa: F401
from saelab.cli import main as saelab
from saelab.lm.tiny import tiny_lm
from saelab.saes.formats import load_sae
from saelab.store.files import PART
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
GRID = {"sites": ["resid_post.1"], "architectures": ["topk", "jumprelu"], "levels": [4], "d_sae": 48}
TIMED = ("ledger", "summary.json", "report.html", "metrics.parquet")  # hold times
DRAW = random.Random(18)


def study(folder: Path) -> Path:
    """A study file with its model and text in a folder."""
    folder.mkdir(parents=True)
    lm = tiny_lm()
    lm.model.save_pretrained(folder / "lm")
    lm.tokenizer.save_pretrained(folder / "lm")
    lines = [f"the cat number {i} walks to the river and the house {i % 7} of the dog " * 12 for i in range(200)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    data = {
        "name": "tiny",
        "models": [{"lm": f"path:{folder / 'lm'}", "dtype": "float32",
                    "grids": [GRID, GRID | {"sites": ["resid_post.2"], "architectures": ["jumprelu"], "steer": False}],
                    "paths": [{"architecture": "jumprelu", "level": 4, "sites": ["resid_post.1", "resid_post.2"]}]}],
        "text": {"corpus": {"source": f"path:{folder / 'text.jsonl'}"}, "context": 32, "train_contexts": 60,
                 "held_out_contexts": 6},
        "harvest": {"sink_ratio": 1000.0, "shard_contexts": 16},
        "training": {"steps": 20, "batch": 128, "precision": "float32", "checkpoint_seconds": 0},
        "interp": {"fidelity_contexts": 4, "window_rows": 1500, "n_scored": 8},
        "selection": {"criteria": ["kl"], "positions": "last"},
        "steering": {"arms": [{"criterion": "kl", "n": 1}, {"random": 3}], "n_control": 1, "factors": [1.0, 2.0],
                     "n_dev": 1, "n_test": 1, "max_new_tokens": 4, "chunk": 8},
        "instrument": {"doses": [0.1, 0.3], "dev_copies": 1, "unsteered_copies": 15, "new_tokens": 4, "contexts": 60,
                       "probe_contexts": 1, "class_texts": 16, "n_dev": 3, "n_random": 3},
        "matching": {"contexts": 4},
        "resamples": 100,
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    return folder / "study.yaml"


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file that is a function of the study."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(TIMED))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


class Said:
    """A verb in a forked process: its exit code, and what it said."""

    def __init__(self, *arguments: object, before: Callable[[], None] = lambda: None):
        read, write = os.pipe()
        self.pid, self.read = os.fork(), read
        if self.pid == 0:
            os.close(read)
            said, code = io.StringIO(), 1
            try:
                with redirect_stderr(said), redirect_stdout(io.StringIO()):
                    before()
                    code = saelab([str(a) for a in arguments])
            except BaseException as error:
                said.write(f"Traceback: {type(error).__name__}: {error}")
            lines = [x for x in said.getvalue().splitlines() if not x.startswith("{")]
            os.write(write, "\n".join(lines).encode()[:60_000])
            os._exit(code)
        os.close(write)

    def end(self) -> tuple[int, str]:
        """Wait; the exit code (negative: a signal) and the words."""
        text = b""
        while block := os.read(self.read, 1 << 16):
            text += block
        os.close(self.read)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), text.decode()


def flip(path: Path) -> None:
    """One bit of a file, anywhere."""
    content = bytearray(path.read_bytes())
    content[DRAW.randrange(len(content))] ^= 1 << DRAW.randrange(8)
    path.write_bytes(content)


def of(done: int, asked: int) -> str:
    """How often a thing was tried, with what was asked for where the time was too short."""
    return f"{done}" if done == asked else f"{done} (of {asked} asked; the time was too short)"


class Bench:
    """The study, an undisturbed run of it, and folders to try things in."""

    def __init__(self, work: Path, minutes: float):
        self.work, self.end = work.absolute(), time.monotonic() + 60 * minutes
        shutil.rmtree(self.work, ignore_errors=True)
        self.study = study(self.work / "inputs")
        start = time.perf_counter()
        code, said = Said("run", self.study, "--out", self.work / "clean").end()
        self.seconds = time.perf_counter() - start
        assert code == 0, said
        self.clean = sums(self.work / "clean")
        self.artefacts = [n for r in Ledger(RunFolder(self.work / "clean").ledger).rows() for n in r.artefacts]

    def run(self, out: Path, **how: Any) -> Said:
        return Said("run", self.study, "--out", out, **how)

    def copy(self, name: str) -> Path:
        to = self.work / name
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.work / "clean", to)
        return to

    def times(self, n: int) -> Iterator[int]:
        """Count trials: `n`, or those that the time is enough for."""
        for k in range(n):
            if time.monotonic() > self.end:
                return
            yield k + 1

    def same(self, folder: Path) -> bool:
        return sums(folder) == self.clean


def kills(bench: Bench, n: int) -> str:
    """SIGKILL while a cell is running, at random times over all stages."""
    out, runs, wrong, between, stages = bench.work / "killed", 0, 0, 0, Counter[str]()
    ended = True
    while stages.total() < n and time.monotonic() < bench.end:
        if ended:
            shutil.rmtree(out, ignore_errors=True)
            runs += 1
        launched = bench.run(out)
        time.sleep(DRAW.uniform(0, bench.seconds))
        os.kill(launched.pid, signal.SIGKILL)  # of one that has ended: nothing
        code, said = launched.end()
        ledger = RunFolder(out).ledger
        rows = Ledger(ledger).rows() if ledger.exists() else []
        running = [r.stage for r in rows if r.state == "running"]
        stages.update(running[:1])
        ended = code == 0
        between += not running and not ended
        wrong += ended and not bench.same(out)
        assert code in (0, -signal.SIGKILL), said
    if not ended:
        code, _ = bench.run(out).end()
        wrong += code != 0 or not bench.same(out)
    hit = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()))
    fell = f"{of(stages.total(), n)} kills in {runs} runs ({hit}; {between} more fell between cells)"
    return f"{fell}: {wrong} runs with another byte"


def flips(bench: Bench, n: int) -> str:
    """One bit of one artefact of a finished run, then `run`, then `report`."""
    states, done = Counter[str](), 0
    for done in bench.times(n):  # noqa: B007
        out = bench.copy("flipped")
        name = DRAW.choice(bench.artefacts)
        flip(out / name)
        code, said = bench.run(out).end()
        states["tracebacks"] += "Traceback" in said
        states["kept"] += code == 0 and not bench.same(out) and not Path(name).name.startswith(TIMED)
        states["remade and named"] += code == 0 and name in said
        states["exit codes other than 0"] += code != 0
        states["pages that failed"] += Said("report", out).end()[0] != 0
    return f"{of(done, n)} flips: " + ", ".join(f"{states[k]} {k}" for k in (
        "remade and named", "kept", "exit codes other than 0", "tracebacks", "pages that failed"))  # fmt: skip


def pages(bench: Bench, n: int) -> str:
    """One bit of one artefact, then `report` alone."""
    run = bench.copy("page")
    assert Said("report", run).end()[0] == 0
    plain, states = (run / "report.html").read_bytes(), Counter[str]()
    done = 0
    for done in bench.times(n):  # noqa: B007
        out = bench.copy("page")
        name = DRAW.choice([a for a in bench.artefacts if not a.startswith(("tokens", "activations", "saes"))])
        flip(out / name)
        code, said = Said("report", out).end()
        states["refused and named"] += code == 3 and name in said
        states["tracebacks"] += "Traceback" in said
        states["other pages at exit code 0"] += code == 0 and (out / "report.html").read_bytes() != plain
    return f"{of(done, n)} flips: " + ", ".join(
        f"{states[k]} {k}" for k in ("refused and named", "other pages at exit code 0", "tracebacks")
    )


def saes(bench: Bench, n: int) -> str:
    """One bit of a saved SAE of a run, then `load_sae`."""
    refused = done = 0
    for done in bench.times(n):  # noqa: B007
        out = bench.copy("sae")
        name = DRAW.choice([a for a in bench.artefacts if a.startswith("saes")])
        flip(out / name)
        try:
            load_sae((out / name).parent)
        except Exception as error:
            refused += Path(name).name in str(error)
    return f"{of(done, n)} flips: {refused} refused and named"


def ledgers(bench: Bench, n: int) -> str:
    """One bit of the ledger, then `run`."""
    states, done = Counter[str](), 0
    for done in bench.times(n):  # noqa: B007
        out = bench.copy("ledger")
        flip(out / "ledger.sqlite")
        code, said = bench.run(out).end()
        states[f"exit code {code}"] += 1
        states["tracebacks"] += "Traceback" in said
        states["other bytes at exit code 0"] += code == 0 and not bench.same(out)
    shown = sorted(k for k in states if k.startswith("exit"))
    codes = ", ".join(f"{states[k]} with {k}" for k in shown)
    other = f"{states['other bytes at exit code 0']} other bytes at exit code 0, {states['tracebacks']} tracebacks"
    return f"{of(done, n)} flips: {codes}; {other}"


def writes(bench: Bench, n: int) -> str:
    """Every write of a file of the study fails once for want of room; the same command goes on."""
    del n
    out, words, said_so = bench.work / "full", Counter[int](), 0
    refused = bench.work / "refused"  # the places that were refused so far, one a line
    refused.write_text("")
    shutil.rmtree(out, ignore_errors=True)
    code = 5

    def once() -> None:
        real = Path.replace

        def replace(self: Path, target: Path) -> Path:
            inner = target.name.endswith(PART)  # a file that is yet to be vouched for: its own place comes next
            if not inner and str(target) not in (known := refused.read_text().split("\n")):
                refused.write_text("\n".join([*known, str(target)]))
                raise OSError(28, "No space left on device")
            return real(self, target)

        Path.replace = replace  # pyright: ignore[reportAttributeAccessIssue]  (in a process of its own)

    while code != 0:
        before = refused.read_text()
        code, said = bench.run(out, before=once).end()
        if refused.read_text() == before:
            break
        words[code] += 1
        said_so += "disk is full" in said and "Traceback" not in said
    codes = ", ".join(f"{count} with exit code {c}" for c, count in sorted(words.items()))
    same = code == 0 and bench.same(out)
    return f"{words.total()} writes: {codes}; {said_so} said that the disk is full; then the same bytes: {same}"


def tmpfs(bench: Bench, n: int) -> str:
    """A real small disk (tmpfs) of growing size; then it gets room, and the same command goes on."""
    mount, states = bench.work / "disk", Counter[str]()
    mount.mkdir(exist_ok=True)
    sizes = [8 + round(i * 640 / n) for i in range(n)]
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(mount)], check=True)
        try:
            code, said = bench.run(mount / "run").end()
            states[f"exit code {code}"] += 1
            states["tracebacks"] += "Traceback" in said
            states["said that the disk is full"] += "disk is full" in said
            subprocess.run(["mount", "-o", "remount,size=200m", str(mount)], check=True)
            code, _ = bench.run(mount / "run").end()
            states["the same bytes"] += code == 0 and bench.same(mount / "run")
        finally:
            subprocess.run(["umount", str(mount)], check=True)
    codes = ", ".join(f"{states[k]} with {k}" for k in sorted(states) if k.startswith("exit"))
    return (
        f"{n} disks of {sizes[0]} to {sizes[-1]} kB: {codes}; {states['said that the disk is full']} said that it is "
        f"full, {states['tracebacks']} tracebacks; {states['the same bytes']} of {n} ended with the same bytes"
    )


def launchers(bench: Bench, n: int) -> str:
    """Four launchers at once on one new folder."""
    good = twice = done = 0
    for done in bench.times(n):  # noqa: B007
        out = bench.work / "four"
        shutil.rmtree(out, ignore_errors=True)
        ended = [launched.end() for launched in [bench.run(out) for _ in range(4)]]
        rows = Ledger(RunFolder(out).ledger).rows()
        twice += sum(r.attempts > 1 for r in rows if r.stage != "record")
        good += all(code == 0 for code, _ in ended) and bench.same(out)
    return f"{of(done, n)} times: {good} with the same bytes and four exit codes 0; {twice} cells done twice"


def names(bench: Bench, n: int) -> str:
    """Run folders whose names are patterns, beside one that the pattern would find."""
    del n
    odd = ["exp[1]", "run?", "run*", "a b", "new\nline", "ünï", "#%20", "{x}"]
    shutil.rmtree(bench.work / "odd", ignore_errors=True)
    bench.run(bench.work / "odd" / "run2").end()
    good = 0
    for name in odd:
        out = bench.work / "odd" / name
        code, _ = bench.run(out).end()
        again, _ = bench.run(out).end()
        good += (code, again) == (0, 0) and bench.same(out)
    return f"{good} of {len(odd)} names gave the same bytes and were opened again"


TRIALS: dict[str, tuple[Callable[[Bench, int], str], int]] = {
    "kills": (kills, 50),
    "flips": (flips, 300),
    "pages": (pages, 100),
    "saes": (saes, 100),
    "ledgers": (ledgers, 60),
    "writes": (writes, 0),
    "tmpfs": (tmpfs, 24),
    "launchers": (launchers, 20),
    "names": (names, 0),
}
LEASES = "pytest tests/store/test_store_leases.py -k"
KEYS = 'pytest -m "sweep or not sweep" tests/judges/test_judges_keys.py'
ELSEWHERE = {  # what is shown by commands that are no trials of this file
    "A stopped launcher (SIGSTOP) wakes up after another took over": (
        "it puts no file in place, finishes no cell, exit code 5", f"{LEASES} a_stopped_launcher"),
    "A killed launcher, then the machine is renamed": ("taken over at once", f"{LEASES} another_host_name"),
    "A killed launcher that nobody reaped": ("taken over at once", f"{LEASES} zombie"),
    "Two spaces of process numbers on one machine": (
        "a living launcher keeps its cells, a dead one loses them", f"{LEASES} space_of_process_numbers"),
    "Another machine": ("named while it lives; after a restart taken over", f"{LEASES} another_machine"),
    "A link in a folder that was received": ("nothing is written through it", f"{LEASES} through_a_link"),
    "A canary for an API key in whole runs and their pages: refused (401), refused with the headers in the message "
    "(400; also with `SAELAB_DEBUG=1`), redirected, timed out, no network, a line end or `é` in the key, the key in "
    "`base_url`, a crash with its traceback, SIGKILL, on Ray": (
        "12 of 12 runs left it in no file, table, page, message or log", KEYS),
    "The same canary before a judge alone, under 13 faults": (
        "13 of 13 left it in no judgement, message, traceback, log or cache", KEYS),
    "A finished demo (508 MB, 162 files with sums) is run again": (
        "2.8 s elapsed and 2.8 s of processor time, best of 3 beside other work (aim 4 s): imports 2.3 s, torch "
        "alone 1.9 s of them; sums 0.5 s", "time saelab run FOLDER"),
}  # fmt: skip


def page(found: dict[str, str]) -> str:
    """The document."""
    lines = ["# Reliability: what was tried on run folders", "",
             "Written by `tools/reliability.py`; a tiny study of all stages (three SAEs at two sites). Every",
             "trial compares with an undisturbed run, file by file, but for files that hold times. The rows were",
             "measured beside other work, on commits that lie a few hours apart.", "",
             "| trial | result | command |", "|---|---|---|"]  # fmt: skip
    for name, (trial, _) in TRIALS.items():
        said = (trial.__doc__ or "").rstrip(".")
        command = f"python tools/reliability.py --work FOLDER --only {name}"
        lines.append(f"| {said} | {found.get(name, 'not measured')} | `{command}` |")
    for said, (result, command) in ELSEWHERE.items():
        lines.append(f"| {said} | {result} | `{command}` |")
    lines += ["", "What is promised, and how it is done, is in [study.md](study.md). What each form of a judge's reply",
              "becomes, and the calls it costs: [judge-replies.md](judge-replies.md).", ""]  # fmt: skip
    return "\n".join(lines)


def measured() -> dict[str, str]:
    """What the page holds so far."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines()] if PAGE.exists() else []
    return {cells[2].split("--only ")[1].split("`")[0]: cells[1] for cells in rows if "--only" in cells[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=TRIALS, action="append")
    parser.add_argument("--times", type=int, default=0, help="instead of each trial's own number")
    parser.add_argument("--minutes", type=float, default=600, help="after which no trial is begun")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(asked.work, asked.minutes)
    for name in asked.only or TRIALS:
        trial, times = TRIALS[name]
        found = trial(bench, asked.times or times)
        print(f"{name}: {found}", flush=True)
        PAGE.write_text(page(measured() | {name: found}))


if __name__ == "__main__":
    sys.exit(main())
