"""Where SAEs come from: folders, hub repositories, and short names of released ones.

From a hub, safetensors, npz and the small text files beside them are fetched, never a pickle (an explicit `convert`
fetches that too). This file must never know what is inside a format.
"""

from pathlib import Path

from saelab.core.errors import UserError
from saelab.saes.formats.released import Released, released
from saelab.store.references import fetch

SAFE = ["*.safetensors", "*.npz", "*.json", "*.yaml", "*.yml", "README.md"]
RUN = "config.json"  # of the run that wrote several SAEs, or of the one beside whose file it lies
PICKLED = ["*.pt", "*.pth"]
_KINDS = ("hf:", "path:", "pypi:")


def resolved(reference: str) -> Released:
    """The reference itself, or what the registry knows under that short name."""
    if Path(reference).exists() or reference.startswith(_KINDS):
        return Released(reference, reference)
    if reference.startswith((".", "/", "~")):
        raise UserError(f"There is no folder {reference}.", hint="Give the folder that holds the SAE's files.")
    return released(reference)


def located(reference: str, *, pickles: bool = False) -> Path:
    """The local folder or file of a reference; hub references are fetched once, without pickles unless asked."""
    if Path(reference).exists():
        return Path(reference)
    return fetch(reference, patterns=SAFE + (PICKLED if pickles else []), above=RUN)
