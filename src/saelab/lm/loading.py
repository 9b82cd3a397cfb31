"""Open weights and tokenizer with transformers, quietly, from a Hugging Face folder or a GGUF file.

GGUF weights are de-quantised on load. Attention scores with a soft cap (Gemma 2) need transformers' eager attention:
its other ones refuse or drop the cap.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from saelab.core.errors import ArtefactError, MissingDependency, SaelabError, UserError, nearest
from saelab.core.hardware import multiplies_bfloat16
from saelab.lm.families import FAMILIES
from saelab.lm.gguf_files import mend_tokenizer, read_once
from saelab.lm.sources import Located, locate

# No code that lies beside weights is run, and nothing is asked: unsaid, transformers asks on the terminal.
SAFE = {"local_files_only": True, "trust_remote_code": False}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def dtype_of(name: str, device: str = "cpu") -> torch.dtype:
    """A torch dtype by name; "auto" is bfloat16 where the device multiplies it, else float32.

    A `UserError` lists the names.
    """
    if name == "auto":
        name = "bfloat16" if multiplies_bfloat16(device) else "float32"
    if name not in DTYPES:
        raise UserError(f"{name!r} is not a dtype for a language model.", hint=nearest(name, ["auto", *DTYPES]))
    return DTYPES[name]


def open_model(located: Located, *, dtype: str, device: str) -> tuple[nn.Module, Any]:
    """The causal model and its tokenizer. An `ArtefactError` says why the files could not be opened."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingDependency("Language models need transformers.", hint="pip install 'saelab[lm]'") from None
    folder, extra = _files(located)
    safe = {} if located.gguf else {"use_safetensors": True}  # never a pickle
    try:
        with quiet(), read_once() if located.gguf else nullcontext():
            if located.gguf is None:
                _refuse_unknown(AutoConfig.from_pretrained(folder, **SAFE))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype_of(dtype, device), **SAFE, **safe, **extra)
            tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE, **extra)
            if located.gguf is not None:
                mend_tokenizer(tokenizer, located.path)
    except SaelabError:
        raise
    except Exception as error:  # transformers, gguf and tokenizers raise many kinds; all mean "not readable"
        if "trust_remote_code" in str(error):
            raise ArtefactError(
                f"{located.reference} is opened by code that lies beside its weights, and saelab never runs that.",
                hint="Use a model of a family that transformers itself knows.",
            ) from None
        line = (str(error).strip().splitlines() or ["no message"])[0]
        raise ArtefactError(
            f"{located.reference} could not be opened: {type(error).__name__}: {line}",
            hint="It needs config.json, tokenizer files and safetensors weights, or one GGUF file.",
        ) from error
    return settle(model).to(device), tokenizer


def size_of(ref: str) -> tuple[int, int]:
    """Width of the stream and number of blocks of a model, from its config alone. Errors as `open_model`."""
    located = locate(ref, ("config.json",))
    try:
        from transformers import AutoConfig
    except ImportError:
        raise MissingDependency("Language models need transformers.", hint="pip install 'saelab[lm]'") from None
    folder, extra = _files(located)
    try:
        with quiet(), read_once() if located.gguf else nullcontext():
            config = AutoConfig.from_pretrained(folder, **SAFE, **extra)
        text = config.get_text_config()
        return int(text.hidden_size), int(text.num_hidden_layers)
    except Exception as error:  # as in open_model
        line = (str(error).strip().splitlines() or ["no message"])[0]
        raise ArtefactError(f"The config of {located.reference} could not be read: {line}") from error


def _files(located: Located) -> tuple[str, dict[str, Any]]:
    """What transformers' `from_pretrained` takes for a folder, or for a GGUF file."""
    if located.gguf is None:
        return str(located.path), {}
    return str(located.path.parent), {"gguf_file": located.gguf}


def settle(model: Any) -> Any:
    """Choose the attention that computes what the model's config says."""
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines from transformers while loading; the settings are put back."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _refuse_unknown(config: Any) -> None:
    """Say that an architecture is unknown before its weights are read."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"The architecture {config.model_type!r} is not one that saelab can read.",
            hint=f"It looked for one of: {', '.join(FAMILIES)}.",
        )
