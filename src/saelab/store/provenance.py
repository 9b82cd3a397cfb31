"""What made an artefact: versions of the libraries that matter, the machine, the time.

Kept beside results so that a number can be traced; never part of an artefact's key.
"""

import platform
from importlib import metadata

from saelab.core.hardware import cores

LIBRARIES = ("saelab", "torch", "transformers", "numpy", "scipy", "polars", "lapx", "scikit-learn")


def versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on, and of Python."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Processor architecture, system and number of usable cores."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": cores()}
