"""A process as it would be on another system than Linux: without the names of `os` that only Linux has, and /proc.

By itself, a study and then its page in such a process: `python elsewhere.py study.yaml folder`.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars  # noqa: F401  (with the others: asks for uname itself when it is first imported, by the system's name)
import pytest
import torch  # noqa: F401

with suppress(ImportError):
    import psutil  # noqa: F401  # pyright: ignore[reportMissingImports, reportMissingModuleSource]  (of a library's)

ONLY_LINUX = ("sched_getaffinity", "uname", "sysconf")


def leave_linux(patch: pytest.MonkeyPatch) -> None:
    """Take them away, until the patch is undone."""
    for name in ONLY_LINUX:
        patch.delattr(os, name)
    text, there, link = Path.read_text, Path.exists, os.readlink

    def read_text(path: Path, *args: Any, **named: Any) -> str:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(str(path))
        return text(path, *args, **named)

    def readlink(path: Any, **named: Any) -> Any:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(str(path))
        return link(path, **named)

    patch.setattr(Path, "read_text", read_text)
    patch.setattr(Path, "exists", lambda path: not str(path).startswith("/proc") and there(path))
    patch.setattr(os, "readlink", readlink)


if __name__ == "__main__":
    leave_linux(pytest.MonkeyPatch())
    from saelab.cli import main

    study, folder = sys.argv[1:]
    sys.exit(main(["run", study, "--out", folder]) or main(["report", folder]))
