"""LoRA folders: an `adapter_config.json` names its base model, and peft merges the two once they are open.

What is merged is an ordinary model; nothing above knows that there was an adapter.
"""

import warnings
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, MissingDependency
from saelab.lm.sources import ADAPTER, ADAPTER_WEIGHTS, Located, locate, reference_of
from saelab.store.files import read_json


def base_of(located: Located, patterns: tuple[str, ...] | None = None) -> Located:
    """The base model of a LoRA folder, any other model itself; patterns: the files that are fetched.

    Raises `ArtefactError` where the folder names no base that can be found.
    """
    if not located.adapter:
        return located
    config = read_json(located.path / ADAPTER)
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name:
        raise ArtefactError(f"{located.path / ADAPTER} names no base model.", hint="It needs base_model_name_or_path.")
    reference = f"path:{name}" if Path(name).is_dir() else reference_of(name)
    if reference is None:
        raise ArtefactError(
            f"The base model of {located.reference} is {name!r}, and where that lies is not known here.",
            hint=f"Write its folder, or org/name, as base_model_name_or_path in {ADAPTER}.",
        )
    return locate(reference) if patterns is None else locate(reference, patterns)


def merge(model: Any, located: Located) -> Any:
    """The base model with the adapter's weights added. `MissingDependency` where peft is not installed."""
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingDependency(
            f"{located.reference} holds LoRA weights, and peft merges them.",
            hint="pip install 'saelab[lora]' (peft), or merge them: merge_and_unload(), save_pretrained(folder).",
        ) from None
    if not (located.path / ADAPTER_WEIGHTS).is_file():  # the other kind of file is a pickle
        raise ArtefactError(
            f"There is no {ADAPTER_WEIGHTS} in {located.path}.", hint="Save the adapter with safetensors."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is to go
        return PeftModel.from_pretrained(model, str(located.path)).merge_and_unload()
