"""Where SAEs go to: the files of a folder, as they are, into a hub repository or another folder.

This file must never know what is inside a format.
"""

import os
import re
import shutil
from pathlib import Path

from saelab.core.errors import FetchError, UserError
from saelab.store.files import apart, filling
from saelab.store.references import hub_library, local, parse_reference


def upload(folder: Path, target: str, *, private: bool = False, replace: bool = False) -> str:
    """Put the files of a folder at `hf:org/name[@branch][/folder]` or `path:folder`; returns where they are now.

    A repository that is not there is made; a local folder must be new or empty, unless its files are to be replaced.
    Raises `FetchError` where the hub refuses or cannot be reached.
    """
    if not target.startswith(("hf:", "path:")):
        raise UserError(f"{target!r} is no place to push to.", hint="Give hf:org/name/folder or path:folder.")
    ref = parse_reference(target)
    if ref.kind == "path":
        place = local(ref.name)
        apart(place, folder)
        with filling(place, replace=replace) as made:
            shutil.copytree(folder, made, dirs_exist_ok=True)
        return str(place)
    api = hub_library().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(ref.name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=ref.name,
            folder_path=folder,
            path_in_repo=ref.inside or None,
            revision=ref.version,
            commit_message=f"Add {ref.inside or 'SAE'} with saelab",
        )
    except Exception as error:  # the hub's errors have many roots (HTTP, token, offline); all mean "not there"
        first = (str(error).strip().splitlines() or ["no message"])[0]
        kind = type(error).__name__
        away = (
            "Check the network" if re.search("Connect|Timeout|Offline", kind) else "Log in (hf auth login, or HF_TOKEN)"
        )
        raise FetchError(
            f"{target} could not be written: {kind}: {first}",
            hint=f"{away}, check the name, or push to path:folder first.",
        ) from error
    return f"hf:{ref.name}@{done.oid}" + (f"/{ref.inside}" if ref.inside else "")
