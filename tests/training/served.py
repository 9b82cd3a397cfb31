"""Training runs in processes of their own, started and killed through a server that forks (train_once.py)."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SERVER = Path(__file__).with_name("train_once.py")


class Runs:
    """Starts runs through the forking server."""

    def __init__(self, *arguments: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen([sys.executable, str(SERVER), *arguments], text=True, bufsize=1, **pipes)

    def start(self, folder: Path, die_at: int = 0) -> int:
        """Start a run; its process id."""
        assert self.server.stdin is not None
        self.server.stdin.write(f"{folder} {die_at}\n")
        self.server.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """The exit status of the run, negative for a signal."""
        return self._answer()

    def finish(self, folder: Path, die_at: int = 0) -> int:
        """Start a run and wait for its end."""
        self.start(folder, die_at)
        return self.wait()

    def kill(self, folder: Path, after: float) -> None:
        """SIGKILL a run a while after its start."""
        child = self.start(folder)
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        assert self.wait() in (0, -9)

    def _answer(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@contextmanager
def served(*arguments: str) -> Iterator[Runs]:
    """A server; its arguments say what is trained."""
    found = Runs(*arguments)
    yield found
    assert found.server.stdin is not None and found.server.stdout is not None
    found.server.stdin.close()
    found.server.wait(timeout=30)
    found.server.stdout.close()


def hashes(folder: Path) -> dict[str, str]:
    files = sorted((folder / "saes").rglob("*.*"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
