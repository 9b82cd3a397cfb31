"""Open weights and tokenizer with transformers, quietly, from a Hugging Face folder or a GGUF file.

GGUF weights are de-quantised on load. Attention scores with a soft cap (Gemma 2) need transformers' eager attention:
its other ones refuse or drop the cap.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from saelab.core.errors import ArtefactError, MissingDependency, SaelabError, UserError, nearest
from saelab.core.hardware import multiplies_bfloat16
from saelab.lm.gguf_files import mend_tokenizer, read_once, unread
from saelab.lm.lora import base_of, merge, refuse_two
from saelab.lm.sources import ADAPTER, Located, locate
from saelab.lm.whole import check_whole, refuse_left

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
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingDependency("Language models need transformers.", hint="pip install 'saelab[lm]'") from None
    if located.adapter:
        model, tokenizer = open_model(base_of(located), dtype=dtype, device=device)
        with quiet():
            return settle(merge(model, located)), tokenizer
    refuse_two(located)
    folder, extra = _files(located)
    safe = {} if located.gguf else {"use_safetensors": True}  # never a pickle
    auto = AutoModelForCausalLM
    if located.gguf is None:
        config = read_config(located)
        auto, extra = auto_class(config), extra | _quantised(config, located, device)
    try:
        with quiet(), read_once() if located.gguf else nullcontext(set[str]()) as read:
            asked = {"dtype": dtype_of(dtype, device), "output_loading_info": True}
            opened: Any = auto.from_pretrained(folder, **asked, **SAFE, **safe, **extra)
            model, info = opened
            check_whole(model, info, located.reference, quantised="device_map" in extra)
            if located.gguf is not None:
                refuse_left(unread(located.path, read), located.reference)
            tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE, **extra)
            if located.gguf is not None:
                mend_tokenizer(tokenizer, located.path)
    except SaelabError:
        raise
    except Exception as error:  # transformers, gguf and tokenizers raise many kinds; all mean "not readable"
        raise _unreadable(located, error) from error
    model = settle(model)
    return (model if "device_map" in extra else model.to(device)), tokenizer


def size_of(ref: str) -> tuple[int, int]:
    """Width of the stream and number of blocks of a model, from its config alone. Errors as `open_model`."""
    located = locate(ref, ("config.json", ADAPTER))
    text = read_config(located).get_text_config(decoder=True)
    try:
        return int(text.hidden_size), int(text.num_hidden_layers)
    except (AttributeError, TypeError, ValueError) as error:
        raise ArtefactError(f"The config of {located.reference} says no width or depth: {error}.") from error


def read_config(located: Located) -> Any:
    """The model's config as transformers reads it. `ArtefactError`: unreadable; `UserError`: unknown architecture."""
    try:
        from transformers import AutoConfig, __version__
    except ImportError:
        raise MissingDependency("Language models need transformers.", hint="pip install 'saelab[lm]'") from None
    folder, extra = _files(base_of(located, ("config.json",)))
    try:
        with quiet(), read_once() if located.gguf else nullcontext():
            return AutoConfig.from_pretrained(folder, **SAFE, **extra)
    except Exception as error:  # as in open_model
        if "does not recognize this architecture" in str(error):
            raise UserError(
                f"The architecture of {located.reference} is not one that transformers {__version__} knows.",
                hint="A newer one may: pip install -U transformers.",
            ) from None
        raise _unreadable(located, error) from error


def _unreadable(located: Located, error: Exception) -> ArtefactError:
    if "trust_remote_code" in str(error):
        return ArtefactError(
            f"{located.reference} is opened by code that lies beside its weights, and saelab never runs that.",
            hint="Use a model of a family that transformers itself knows.",
        )
    line = (str(error).strip().splitlines() or ["no message"])[0]
    return ArtefactError(
        f"{located.reference} could not be opened: {type(error).__name__}: {line}",
        hint="It needs config.json, tokenizer files and safetensors weights, or one GGUF file.",
    )


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


# What transformers needs to open weights of each kind of quantisation.
QUANTISERS = {"bitsandbytes": ("bitsandbytes",), "gptq": ("optimum", "gptqmodel"), "awq": ("gptqmodel",)}


def _quantised(config: Any, located: Located, device: str) -> dict[str, Any]:
    """How quantised weights are opened: where they are to be used, once the libraries for them are there."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return {}
    method = str(said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None))
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if method not in (known := {"bitsandbytes", *AUTO_QUANTIZER_MAPPING}):
        raise UserError(
            f"The weights of {located.reference} are quantised by {method!r}, which transformers cannot open.",
            hint=f"It opens {', '.join(sorted(known))}. Or use the weights before they were quantised.",
        )
    missing = [name for name in ("accelerate", *QUANTISERS.get(method, ())) if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"The weights of {located.reference} are quantised ({method}), and {' and '.join(missing)} opens them.",
            hint=f"pip install {' '.join(missing)}",
        )
    return {"device_map": {"": device}}


def auto_class(config: Any) -> Any:
    """What opens a config's model: transformers' causal models, then those of text and images, whose text part is read.

    A `UserError`, before any weights are read, where it is neither.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            return auto
    raise UserError(
        f"The architecture {config.model_type!r} is not a causal language model.",
        hint="saelab reads transformers' causal language models, and the text part of those with images.",
    )
