"""Where SAEs come from: folders, hub repositories, and short names of released ones.

From a hub, safetensors, npz and the small text files beside them are fetched, never a pickle (an explicit `convert`
fetches that too). This file must never know what is inside a format.
"""

from pathlib import Path

from saelab.store.references import fetch

SAFE = ["*.safetensors", "*.npz", "*.json", "*.yaml", "*.yml", "README.md"]
PICKLED = ["*.pt", "*.pth"]


def located(reference: str, *, pickles: bool = False) -> Path:
    """The local folder or file of a reference; hub references are fetched once, without pickles unless asked."""
    if Path(reference).exists():
        return Path(reference)
    return fetch(reference, patterns=SAFE + (PICKLED if pickles else []))
