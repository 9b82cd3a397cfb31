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
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import yaml

from saelab.cli import main as saelab
from saelab.lm.tiny import tiny_lm
from saelab.saes.formats import load_sae
from saelab.store import files as store_files
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
        "interp": {"fidelity_contexts": 4, "window_rows": 1500, "n_scored": 24},
        "selection": {"criteria": ["kl"], "positions": "last"},
        "steering": {"arms": [{"criterion": "kl", "n": 1}, {"random": 3}], "n_control": 1, "factors": [1.0, 2.0],
                     "n_dev": 1, "n_test": 1, "max_new_tokens": 4, "chunk": 8},
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


class Bench:
    """The study, an undisturbed run of it, and folders to try things in."""

    def __init__(self, work: Path):
        self.work = work.absolute()
        shutil.rmtree(self.work, ignore_errors=True)
        self.study = study(self.work / "inputs")
        start = time.perf_counter()
        code, said = Said("run", self.study, "--out", self.work / "clean").end()
        assert code == 0, said
        self.seconds = time.perf_counter() - start
        self.clean = sums(self.work / "clean")
        self.artefacts = [n for r in Ledger(RunFolder(self.work / "clean").ledger).rows() for n in r.artefacts]

    def run(self, out: Path, **how: Any) -> Said:
        return Said("run", self.study, "--out", out, **how)

    def copy(self, name: str) -> Path:
        to = self.work / name
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.work / "clean", to)
        return to

    def same(self, folder: Path) -> bool:
        return sums(folder) == self.clean


def kills(bench: Bench, n: int) -> str:
    """SIGKILL at random times over all stages."""
    out, done, wrong, folders, stages = bench.work / "killed", 0, 0, 0, Counter[str]()
    while done < n:
        shutil.rmtree(out, ignore_errors=True)
        folders += 1
        while True:
            launched = bench.run(out)
            time.sleep(DRAW.uniform(0.02, 0.35) * bench.seconds)
            ended, _ = os.waitpid(launched.pid, os.WNOHANG)
            if ended or done >= n:
                break
            os.kill(launched.pid, signal.SIGKILL)
            launched.end()
            done += 1
            if (ledger := RunFolder(out).ledger).exists():
                stages.update(r.stage for r in Ledger(ledger).rows() if r.state == "running")
        if not ended:
            launched.end()
        else:
            os.close(launched.read)
        code, said = bench.run(out).end()
        wrong += code != 0 or not bench.same(out)
        assert "Traceback" not in said, said
    hit = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()))
    return f"{done} kills in {folders} runs ({hit}): {wrong} runs with another byte"


def flips(bench: Bench, n: int) -> str:
    """One bit of one artefact of a finished run, then `run`, then `report`."""
    states = Counter[str]()
    for _ in range(n):
        out = bench.copy("flipped")
        name = DRAW.choice(bench.artefacts)
        flip(out / name)
        code, said = bench.run(out).end()
        states["tracebacks"] += "Traceback" in said
        states["kept"] += code == 0 and not bench.same(out) and not Path(name).name.startswith(TIMED)
        states["remade and named"] += code == 0 and name in said
        states["exit codes other than 0"] += code != 0
        states["pages that failed"] += Said("report", out).end()[0] != 0
    return f"{n} flips: " + ", ".join(f"{states[k]} {k}" for k in (
        "remade and named", "kept", "exit codes other than 0", "tracebacks", "pages that failed"))  # fmt: skip


def pages(bench: Bench, n: int) -> str:
    """One bit of one artefact, then `report` alone."""
    run = bench.copy("page")
    assert Said("report", run).end()[0] == 0
    plain, states = (run / "report.html").read_bytes(), Counter[str]()
    for _ in range(n):
        out = bench.copy("page")
        name = DRAW.choice([a for a in bench.artefacts if not a.startswith(("tokens", "activations", "saes"))])
        flip(out / name)
        code, said = Said("report", out).end()
        states["refused and named"] += code == 3 and name in said
        states["tracebacks"] += "Traceback" in said
        states["other pages at exit code 0"] += code == 0 and (out / "report.html").read_bytes() != plain
    return f"{n} flips: " + ", ".join(
        f"{states[k]} {k}" for k in ("refused and named", "other pages at exit code 0", "tracebacks")
    )


def saes(bench: Bench, n: int) -> str:
    """One bit of a saved SAE of a run, then `load_sae`."""
    refused = 0
    for _ in range(n):
        out = bench.copy("sae")
        name = DRAW.choice([a for a in bench.artefacts if a.startswith("saes")])
        flip(out / name)
        try:
            load_sae((out / name).parent)
        except Exception as error:
            refused += Path(name).name in str(error)
    return f"{n} flips: {refused} refused and named"


def ledgers(bench: Bench, n: int) -> str:
    """One bit of the ledger, then `run`."""
    states = Counter[str]()
    for _ in range(n):
        out = bench.copy("ledger")
        flip(out / "ledger.sqlite")
        code, said = bench.run(out).end()
        states[f"exit code {code}"] += 1
        states["tracebacks"] += "Traceback" in said
        states["other bytes at exit code 0"] += code == 0 and not bench.same(out)
    shown = sorted(k for k in states if k.startswith("exit"))
    codes = ", ".join(f"{states[k]} with {k}" for k in shown)
    other = f"{states['other bytes at exit code 0']} other bytes at exit code 0, {states['tracebacks']} tracebacks"
    return f"{n} flips: {codes}; {other}"


def writes(bench: Bench, n: int) -> str:
    """Every write of a file of the study fails once for want of room; the same command goes on."""
    del n
    out, failed, words = bench.work / "full", 0, Counter[int]()
    left = ["study.yaml", "names.json", *bench.artefacts, "report.html"]  # in the order in which they are written
    shutil.rmtree(out, ignore_errors=True)

    def without_room(name: str) -> None:
        plain = store_files._sync_folder

        def full(folder: Path) -> None:
            plain(folder)

        store_files._sync_folder = full
        real = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if str(target) == str(out / name):
                raise OSError(28, "No space left on device")
            return real(self, target)

        Path.replace = replace  # pyright: ignore[reportAttributeAccessIssue]  (in a process of its own)

    for name in left:
        code, said = bench.run(out, before=lambda name=name: without_room(name)).end()
        words[code] += 1
        failed += "disk is full" in said and "Traceback" not in said
    code, _ = bench.run(out).end()
    codes = ", ".join(f"{count} with exit code {c}" for c, count in sorted(words.items()))
    return f"{len(left)} files: {codes}; {failed} said that the disk is full; then the same bytes: {bench.same(out)}"


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
    good = twice = 0
    for _ in range(n):
        out = bench.work / "four"
        shutil.rmtree(out, ignore_errors=True)
        ended = [launched.end() for launched in [bench.run(out) for _ in range(4)]]
        rows = Ledger(RunFolder(out).ledger).rows()
        twice += sum(r.attempts > 1 for r in rows if r.stage != "record")
        good += all(code == 0 for code, _ in ended) and bench.same(out)
    return f"{n} times: {good} with the same bytes and four exit codes 0; {twice} cells done twice"


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
TESTED = {
    "A stopped launcher (SIGSTOP) wakes up after another took over": (
        "it puts no file in place, finishes no cell, exit code 5", "a_stopped_launcher"),
    "A killed launcher, then the machine is renamed": ("taken over at once", "another_host_name"),
    "A killed launcher that nobody reaped": ("taken over at once", "zombie"),
    "Two spaces of process numbers on one machine": (
        "a living launcher keeps its cells, a dead one loses them", "space_of_process_numbers"),
    "Another machine": ("named while it lives; after a restart taken over", "another_machine"),
    "A link in a folder that was received": ("nothing is written through it", "through_a_link"),
}  # fmt: skip


def page(found: dict[str, str]) -> str:
    """The document."""
    lines = ["# Reliability: what was tried on run folders", "",
             "Written by `tools/reliability.py`; a tiny study of all stages (three SAEs at two sites). Every",
             "trial compares with an undisturbed run, file by file, but for files that hold times.", "",
             "| trial | result | command |", "|---|---|---|"]  # fmt: skip
    for name, (trial, _) in TRIALS.items():
        said = (trial.__doc__ or "").rstrip(".")
        command = f"`python tools/reliability.py --work FOLDER --only {name}`"
        lines.append(f"| {said} | {found.get(name, 'not measured')} | {command} |")
    for said, (result, test) in TESTED.items():
        lines.append(f"| {said} | {result} | `pytest tests/store/test_store_leases.py -k {test}` |")
    lines += ["", "What is promised, and how it is done, is in [study.md](study.md).", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=TRIALS, action="append")
    parser.add_argument("--times", type=int, default=0, help="instead of each trial's own number")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(asked.work)
    kept = [line.split(" | ") for line in PAGE.read_text().splitlines()] if PAGE.exists() else []
    found = {cells[2].split("--only ")[1].split("`")[0]: cells[1] for cells in kept if "--only" in cells[-1]}
    for name in asked.only or TRIALS:
        trial, times = TRIALS[name]
        found[name] = trial(bench, asked.times or times)
        print(f"{name}: {found[name]}", flush=True)
        PAGE.write_text(page(found))


if __name__ == "__main__":
    sys.exit(main())
