"""Where SAEs come from: folders, hub repositories, and short names of released ones.

From a hub, safetensors, npz and the small text files beside them are fetched, never a pickle (an explicit `convert`
fetches that too). This file must never know what is inside a format.
"""

import os
from pathlib import Path, PurePosixPath

from saelab.core.errors import UserError
from saelab.saes.formats.listing import homes, several
from saelab.saes.formats.released import Released, released
from saelab.store.files import is_there
from saelab.store.references import fetch, hub_library, parse_reference

SAFE = ["*.safetensors", "*.npz", "*.json", "*.yaml", "*.yml", "README.md"]
RUN = "config.[jy]*"  # .json or .yaml: of the run that wrote several SAEs, or of the one beside whose file it lies
PICKLED = ["*.pt", "*.pth"]
_KINDS = ("hf:", "path:", "pypi:")


def resolved(reference: str) -> Released:
    """The reference itself, or what the registry knows under that short name."""
    if is_there(reference) or reference.startswith(_KINDS):
        return Released(reference, reference)
    if reference.startswith((".", "/", "~")):
        raise UserError(f"There is no folder {reference}.", hint="Give the folder that holds the SAE's files.")
    return released(reference)


def located(reference: str, *, pickles: bool = False) -> Path:
    """The local folder or file of a reference; hub references are fetched once, without pickles unless asked.

    A hub folder without weights of its own is not fetched: what lies below it is listed (`UserError`).
    """
    if is_there(reference):
        return Path(reference)
    if reference.startswith("hf:") and (found := _several(reference)):
        raise several(reference, found)
    return fetch(reference, patterns=SAFE + (PICKLED if pickles else []), above=RUN)


def _several(reference: str) -> list[str]:
    """The SAEs below a hub folder that has no weights itself; empty where it has, or where the hub does not say."""
    ref = parse_reference(reference)
    if PurePosixPath(ref.inside).suffix in (".safetensors", ".npz", ".pt", ".pth"):
        return []
    try:
        api = hub_library().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        names = api.list_repo_files(ref.name, revision=ref.version)
    except Exception:  # offline, gated or not there: the fetch itself says what is wrong, or finds its cache
        return []
    under = f"{ref.inside.rstrip('/')}/" if ref.inside else ""
    found = homes(name.removeprefix(under) for name in names if name.startswith(under))
    return [] if "" in found else found
