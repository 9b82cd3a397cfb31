"""Harvest in processes of its own: killed at random moments, and on a disk that is really full."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from saelab.activations.harvest import HarvestConfig, harvest
from saelab.core.errors import ResourceError
from saelab.core.seeds import numpy_generator
from saelab.text.pack import PackedText

class Waves:
    reference, dtype = "waves", torch.float32
    def __init__(self, width, wait):
        self.frequencies, self.wait = torch.arange(1, width + 1), wait
    def run_to(self, tokens, sites):
        time.sleep(self.wait)
        return {s: torch.sin(tokens[..., None] * self.frequencies + k) for k, s in enumerate(sites)}

tokens = torch.arange(640, dtype=torch.int32).reshape(40, 16)
text = PackedText(tokens, tokens * 0, ("d",), None, frozenset())
root = Path(sys.argv[1])
def work(folder, width=8, wait=0.005, contexts=1):
    config = HarvestConfig(batch_contexts=contexts, shard_contexts=contexts)
    harvest(Waves(width, wait), text, ["resid_post.0", "resid_post.1"], folder, config=config)
"""

KILLS = (
    COMMON
    + """
generator, kills = numpy_generator("kills"), 0
began = time.perf_counter()
work(root / "whole")
seconds = time.perf_counter() - began
while True:
    child = os.fork()
    if child == 0:
        work(root / "parts")
        os._exit(0)
    time.sleep(seconds * generator.uniform(0.02, 0.1))
    if os.waitpid(child, os.WNOHANG) != (0, 0):
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
print(kills)
"""
)

# About 2 MB of rows at each site; the disk holds 1, then 3, then enough.
FULL = (
    COMMON
    + """
full = 0
for size in ("1m", "3m", "32m"):
    os.system(f"mount -o remount,size={size} {root}")
    try:
        work(root / "parts", width=1600, wait=0, contexts=4)
    except ResourceError as error:
        assert "disk is full" in str(error), error
        full += 1
work(root / "whole", width=1600, wait=0, contexts=4)
for path in sorted((root / "whole").rglob("*.*")):
    twin = root / "parts" / path.relative_to(root / "whole")
    assert path.is_dir() or path.read_bytes() == twin.read_bytes(), path
print(full, len(list((root / "parts").rglob("shard-*"))), len(list((root / "parts").rglob(".*"))))
"""
)


def files_of(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_sigkill_at_any_moment_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Killed again and again until it is done: progress survives every kill, and no half-written file remains."""
    found = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(found.stdout) >= 10
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_a_disk_that_is_really_full_loses_nothing(tmp_path: Path) -> None:
    """A small file system in memory fills up twice; each time it has grown, the same command goes on."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if not shutil.which("unshare") or subprocess.run([*namespace, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs user namespaces")
    command = [*namespace, "sh", "-c", f'{mount} && exec "$0" -c "$1" {tmp_path}', sys.executable, FULL]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["2", "20", "0"]
