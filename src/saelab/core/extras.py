"""Which extra of saelab brings a library that is not installed, as the package's own metadata say.

No library is named here but by what its import is called, and none is imported.
"""

import re
from importlib import metadata

from saelab.core.errors import MissingDependency

BROUGHT_BY = {"sklearn": "scikit_learn", "lap": "lapx", "tokenizers": "transformers"}  # where names differ
DEVELOPERS = ("dev", "docs")


def extras() -> dict[str, list[str]]:
    """The extras for users, each with the distributions that it brings."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires("saelab") or []:
        said = re.match(r"([\w.-]+).*; *extra *== *['\"]([\w-]+)", line)
        if said and said[2] not in DEVELOPERS:
            found.setdefault(said[2], []).append(said[1])
    return found


def absent(error: ImportError) -> MissingDependency | None:
    """What to say of an import that failed; None where no extra brings it, so that the fault is not the user's."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error  # the command line wraps it
    module = (cause.name or "").partition(".")[0]
    wanted = BROUGHT_BY.get(module, module)
    for extra, distributions in extras().items():
        if wanted in {name.replace("-", "_") for name in distributions}:
            return MissingDependency(f"This needs {module}, which is not installed.", hint=command(extra))
    return None


def command(extra: str) -> str:
    """The one command that installs an extra."""
    return f"pip install 'saelab[{extra}]'"
