"""Kill a study at random moments, go on with it each time, and compare what it says with an uninterrupted run.

    python tools/kill_study.py src/saelab/study/demo.yaml --kills 10 --out /tmp/killed
    python tools/kill_study.py src/saelab/study/demo.yaml --kills 10 --out /tmp/killed --whole runs/demo --threads 2

The uninterrupted run is made first, or given with --whole (a finished run folder of the same study, code and number of
threads). Every run is `saelab run` in a process of its own, killed with SIGKILL: kill i of n falls into the cell that
follows the first i / (n + 1) of the cells, at a random moment of it. Exit code 0 where `results.json` is the same, byte
for byte.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from saelab.core.seeds import numpy_generator
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger

START = "import sys; from saelab.cli import main; sys.exit(main(sys.argv[1:]))"


def launch(study: Path, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", START, "run", str(study), "--out", str(out), *options]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=(out.parent / "stderr.txt").open("ab")
    )


def done(folder: RunFolder) -> int:
    """Finished cells. A ledger that is not there yet is not made here: it would stand in a folder without a mark."""
    if not folder.ledger.exists():
        return 0
    return sum(r.state == "done" for r in Ledger(folder.ledger).rows())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale")
    parser.add_argument("--whole", type=Path, help="an uninterrupted run that is there already")
    given = parser.parse_args()
    options = ["--threads", str(given.threads), *(["--scale", given.scale] if given.scale else [])]
    given.out.mkdir(parents=True, exist_ok=True)
    whole, killed = RunFolder(given.whole or given.out / "whole"), RunFolder(given.out / "killed")
    if given.whole is None and launch(given.study, whole.root, options).wait() != 0:
        print(f"The uninterrupted run failed; see {given.out / 'stderr.txt'}.")
        return 1
    rows = Ledger(whole.ledger).rows()
    rng, kills = numpy_generator(given.seed, "kill study"), 0
    for i in range(given.kills):
        first = round((i + 1) * len(rows) / (given.kills + 1))
        pause = float(rng.uniform()) * (rows[first].seconds or 1.0)
        process = launch(given.study, killed.root, options)
        while process.poll() is None and done(killed) < first:
            time.sleep(0.02)
        time.sleep(pause)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        print(f"kill {i + 1}: {done(killed)} of {len(rows)} cells done, then killed after {pause:.2f} s", flush=True)
    if launch(given.study, killed.root, options).wait() != 0:
        print(f"The last run failed; see {given.out / 'stderr.txt'}.")
        return 1
    again = sum(r.attempts - 1 for r in Ledger(killed.ledger).rows())
    same = whole.results.path.read_bytes() == killed.results.path.read_bytes()
    print(f"{kills} kills, {again} cells begun again, results.json {'the same' if same else 'DIFFERENT'}")
    return 0 if same and kills else 1


if __name__ == "__main__":
    sys.exit(main())
