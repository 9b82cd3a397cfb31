"""LoRA folders: an `adapter_config.json` names its base model, and peft merges the two once they are open.

What is merged is an ordinary model; nothing above knows that there was an adapter.
"""

import warnings
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, MissingDependency, SaelabError
from saelab.lm.sources import ADAPTER, ADAPTER_WEIGHTS, Located, locate, reference_of
from saelab.lm.whole import refuse_left, some
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
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that is to go, and warns of what is refused here.
            warnings.simplefilter("ignore")
            adapted: Any = PeftModel.from_pretrained(model, str(located.path))
            _check_whole(adapted, located)
            return adapted.merge_and_unload()
    except SaelabError:
        raise
    except Exception as error:  # peft raises many kinds; all mean that the two do not fit
        line = (str(error).strip().splitlines() or ["no message"])[0]
        raise ArtefactError(
            f"The adapter of {located.reference} could not be merged: {type(error).__name__}: {line}",
            hint="saelab reads LoRA adapters of the model that they name as their base.",
        ) from error


def refuse_two(located: Located) -> None:
    """Raise an `ArtefactError` for a folder that holds a model and an adapter: which is meant cannot be known."""
    if all((located.path / name).is_file() for name in (ADAPTER, "config.json")):
        raise ArtefactError(
            f"{located.reference} holds both a model (config.json) and an adapter ({ADAPTER}).",
            hint=f"Keep {ADAPTER} and its weights in a folder of their own, beside the model's.",
        )


def _check_whole(adapted: Any, located: Located) -> None:
    """Whether the file's tensors are the adapter's, all and no others: peft would leave out what does not fit."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(located.path / ADAPTER_WEIGHTS, framework="pt") as file:
        held = set(file.keys())
    asked = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if lacking := asked - held:
        raise ArtefactError(
            f"The adapter of {located.reference} lacks {some(lacking)}, which its {ADAPTER} asks for.",
            hint="Save the adapter again, whole: save_pretrained(folder).",
        )
    refuse_left(held - asked - {name for name, _ in adapted.named_parameters()}, located.reference)
