"""Leases: which launcher holds a run, and whether it still lives.

A launcher is a process, known by the boot of its machine, its space of process numbers, its number and when it started;
a host's name says nothing. While it holds anything it counts a heartbeat on. One that this machine can see is dead when
its process is gone, a zombie or another; a stopped one, or one behind a wall of name spaces, when its heartbeat has
stood still for `PATIENCE` seconds of the observer's own clock. Must never know what is held.
"""

import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

BEAT = 1.0  # seconds between two heartbeats
PATIENCE = 15.0  # seconds without one after which a launcher that cannot be seen, or is stopped, counts as gone

State = Literal["living", "dead", "unsure"]


@dataclass(frozen=True)
class Launcher:
    """A process. boot, space: empty where the system does not say; started: in the system's own words."""

    boot: str
    space: str
    pid: int
    started: str
    host: str

    @classmethod
    def here(cls) -> "Launcher":
        """This process."""
        return cls(_boot(), _space(), os.getpid(), _stat(os.getpid())[1], platform.node())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host or 'a machine without a name'}"

    @property
    def elsewhere(self) -> bool:
        """Whether it runs (or ran) under another kernel than this process."""
        return self.boot != _boot()

    def state(self) -> State:
        """Whether it lives. unsure: it is stopped, or cannot be seen from here."""
        if self.elsewhere or not self.boot or self.space != _space():
            return "unsure"
        letter, started = _stat(self.pid)
        if not started:
            return _asked(self.pid) if not Path("/proc/self/stat").exists() else "dead"
        if letter in "ZX" or started != self.started:
            return "dead"
        return "unsure" if letter in "Tt" else "living"


@dataclass
class Watch:
    """What this process has seen of the heartbeats of others, by launcher's number: the count, and since when."""

    seen: dict[int, tuple[int, float]] = field(default_factory=dict[int, tuple[int, float]])
    moved: set[int] = field(default_factory=set[int])

    def silent(self, number: int, beat: int) -> bool:
        """Whether a heartbeat has stood still for longer than one waits."""
        now = time.monotonic()
        count, since = self.seen.setdefault(number, (beat, now))
        if count != beat:
            self.seen[number], since = (beat, now), now
            self.moved.add(number)
        return now - since > PATIENCE


@lru_cache(maxsize=1)
def _boot() -> str:
    """What names this start of this machine's kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        pass
    try:
        asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip()


def _space() -> str:
    """The space in which process numbers are given out."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (its target is no path)
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State and start of a process, as /proc has them; empty where there is no such process, or no /proc."""
    try:
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return rest[0], rest[19]
    except (OSError, IndexError):
        return "", ""


def _asked(pid: int) -> State:
    """Whether a process lives, where only its number can be asked for: another may have it by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass
    return "unsure"
