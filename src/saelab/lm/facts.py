"""What a study must know of a language model before it is loaded: depth, width, vocabulary, positions, chat template.

Built-in models have theirs in `facts.json`, pinned with the weights; of others the config and the tokenizer's files are
read as JSON, or a GGUF file's header. No weights are read and no code of a model's folder is run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, FetchError
from saelab.core.sites import Site
from saelab.lm.families import FAMILIES, is_parallel
from saelab.lm.loading import auto_class, read_config
from saelab.lm.lora import base_of
from saelab.lm.sources import ADAPTER, SHORT_NAMES, Located, locate, named
from saelab.store.files import read_json
from saelab.store.references import cached

CONFIG = ("config.json", ADAPTER, "tokenizer_config.json", "chat_template.*", "*.gguf")
# What GGUF calls a family where transformers calls it otherwise.
GGUF_FAMILIES = {"gemma3": "gemma3_text", "gptneox": "gpt_neox"}


@dataclass(frozen=True)
class ModelFacts:
    """family: transformers' model type; positions: how many it has learned, None where they are computed; template:
    whether its tokenizer says how it is asked; heads: how wide its heads' outputs are side by side; parallel: whether
    attention and MLP read the same stream.
    """

    family: str
    n_layers: int
    d_model: int
    vocab_size: int
    positions: int | None
    template: bool
    heads: int
    parallel: bool = False

    def width(self, site: Site) -> int:
        """How wide the activations of a site are."""
        return self.heads if site.kind == "z" else self.d_model

    def has(self, site: Site) -> bool:
        """Whether the blocks have a site, as far as a config says it."""
        return site.kind != "resid_mid" or not self.parallel


def facts_of(ref: str, *, fetch: bool = True) -> ModelFacts | None:
    """The facts of a model by name or reference; None where they are not on this machine (and cannot be fetched).

    fetch: whether a config may be downloaded. Raises `UserError` for a path without a model or an architecture that is
    no causal language model, `ArtefactError` for a broken config.
    """
    if ref in SHORT_NAMES:
        return ModelFacts(**_pinned()[ref])
    if not fetch and not all(cached(reference) for reference in named(ref)):
        return None
    try:
        located = base_of(locate(ref, CONFIG), CONFIG)
    except FetchError:
        return None
    return _of_gguf(located) if located.gguf else _of_folder(located)


@lru_cache(maxsize=1)
def _pinned() -> dict[str, dict[str, Any]]:
    return json.loads(resources.files("saelab.lm").joinpath("facts.json").read_text(encoding="utf-8"))


def _of_folder(located: Located) -> ModelFacts:
    config = read_json(located.path / "config.json")
    if not isinstance(config, dict):
        raise ArtefactError(f"{located.path / 'config.json'} does not hold a JSON object.")
    family = str(config.get("model_type"))
    if family not in FAMILIES:  # only transformers knows what its config means
        read = read_config(located)
        auto_class(read)
        text = read.get_text_config(decoder=True)
        config = {name: getattr(text, name, None) for name in (*_NAMES, *text.to_dict())}
    turned = any(name.startswith(("rope", "rotary")) for name in config)
    learned = FAMILIES[family].positions == "learned" if family in FAMILIES else not turned
    width = _number(config, located, "hidden_size", "n_embd")
    return ModelFacts(
        family=family,
        n_layers=_number(config, located, "num_hidden_layers", "n_layer"),
        d_model=width,
        vocab_size=_number(config, located, "vocab_size"),
        positions=_positions(config) if learned else None,
        template=_has_template(located.path),
        heads=_heads(
            width,
            config.get("num_attention_heads", config.get("n_head")),
            config.get("v_head_dim", config.get("head_dim")),
        ),
        parallel=is_parallel(config),
    )


# What configs call the sizes; transformers' own answer by the first name of each, whatever theirs is.
_NAMES = (
    "num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings", "num_attention_heads", "head_dim",
)  # fmt: skip


def _positions(config: Mapping[str, Any]) -> int | None:
    found = config.get("n_positions", config.get("max_position_embeddings"))
    return found if isinstance(found, int) else None


def _number(config: Mapping[str, Any], located: Located, *names: str) -> int:
    found = next((config[n] for n in names if n in config), None)
    if not isinstance(found, int) or found < 1:
        raise ArtefactError(f"The config of {located.reference} says no {names[0]}.")
    return found


def _heads(width: int, heads: Any, each: Any) -> int:
    """Width of the heads' outputs side by side: that of the stream where no width of a head is said."""
    return heads * each if isinstance(heads, int) and isinstance(each, int) else width


def _has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder says how its model is asked; the last name is of old folders' lists."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = folder / "tokenizer_config.json"
    found = read_json(config) if config.is_file() else {}
    return bool(isinstance(found, dict) and found.get("chat_template"))


def _of_gguf(located: Located) -> ModelFacts:
    gguf: Any = import_module("gguf")
    try:
        reader = gguf.GGUFReader(str(located.path))
        said = {name: field for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
        values = {name: field.contents() for name, field in said.items()}
        tokens = reader.fields.get("tokenizer.ggml.tokens")
    except Exception as error:  # the library's errors have many roots; all mean "not readable"
        raise ArtefactError(f"The header of {located.path} could not be read: {error}.") from error
    kind = str(values.get("general.architecture"))
    family = GGUF_FAMILIES.get(kind, kind)
    learned = family in FAMILIES and FAMILIES[family].positions == "learned"
    sizes = values | {f"{kind}.vocab_size": len(tokens.data) if tokens is not None else 0}
    width = _number(sizes, located, f"{kind}.embedding_length")
    return ModelFacts(
        family=family,
        n_layers=_number(sizes, located, f"{kind}.block_count"),
        d_model=width,
        vocab_size=_number(sizes, located, f"{kind}.vocab_size"),
        positions=_number(sizes, located, f"{kind}.context_length") if learned else None,
        template=bool(values.get("tokenizer.chat_template")),
        heads=_heads(width, sizes.get(f"{kind}.attention.head_count"), sizes.get(f"{kind}.attention.value_length")),
        parallel=is_parallel({"model_type": family}) and bool(sizes.get(f"{kind}.use_parallel_residual", True)),
    )
