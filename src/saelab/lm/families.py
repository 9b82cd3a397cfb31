"""The block layouts saelab knows: where each family keeps its embedding, blocks, norm and head.

A family is data: attribute names inside the transformers model, and how positions enter. The arithmetic stays in
transformers. A model whose layout is not in the table is refused with what was looked for; nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from saelab.core.errors import UserError


@dataclass(frozen=True)
class Family:
    """Attribute names of one family.

    `base`: the decoder inside the causal model; `attn_out`, `mlp_out`: the module of a block whose output is added to
    the stream; `cache`: the block's argument for keys and values; `positions`: "rotary", "rotary_by_type" (Gemma 3:
    local and global layers turn differently) or "learned" (GPT-2, added to the embedding).
    """

    name: str
    base: str
    blocks: str
    embed: str
    norm: str
    attn_out: str
    mlp_out: str
    cache: str = "past_key_values"
    positions: Literal["rotary", "rotary_by_type", "learned"] = "rotary"
    attn: str = "self_attn"
    heads: str = "o_proj"
    mlp_norm: str = "post_attention_layernorm"


@dataclass(frozen=True)
class BlockParts:
    """The modules of one block that sites are read and changed at; None where the block has no such thing.

    attn: mixes positions. attn_out, mlp_out: their outputs are added to the stream. mlp: its input is `mlp_in`.
    mlp_norm: its input is the stream between attention and MLP (None where both read the block's input). heads: its
    input is the heads' z side by side, `[B, T, H d]`.
    """

    attn: nn.Module | None
    attn_out: nn.Module | None
    mlp: nn.Module | None
    mlp_out: nn.Module | None
    mlp_norm: nn.Module | None
    heads: nn.Module | None


def _llama_like(name: str, attn_out: str = "self_attn", mlp_out: str = "mlp", **changes: str) -> Family:
    return Family(name, "model", "layers", "embed_tokens", "norm", attn_out, mlp_out, **changes)  # pyright: ignore[reportArgumentType]  (positions is a Literal)


# Gemma normalises what attention and MLP add, so the addend is the output of the norm after each.
_GEMMA = {
    "attn_out": "post_attention_layernorm",
    "mlp_out": "post_feedforward_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
}

FAMILIES: dict[str, Family] = {
    "llama": _llama_like("llama"),
    "qwen2": _llama_like("qwen2"),
    "qwen3": _llama_like("qwen3"),
    "gemma2": _llama_like("gemma2", **_GEMMA),
    "gemma3_text": _llama_like("gemma3", **_GEMMA, positions="rotary_by_type"),
    "gpt2": Family(
        "gpt2",
        "transformer",
        "h",
        "wte",
        "ln_f",
        "attn",
        "mlp",
        positions="learned",
        attn="attn",
        heads="c_proj",
        mlp_norm="ln_2",
    ),
    "gpt_neox": Family(
        "gpt_neox",
        "gpt_neox",
        "layers",
        "embed_in",
        "final_layer_norm",
        "attention",
        "mlp",
        cache="layer_past",
        attn="attention",
        heads="dense",
    ),
}


def is_parallel(config: Mapping[str, Any]) -> bool:
    """Whether attention and MLP of a block read the same stream, as far as a model's config says it."""
    return config.get("model_type") == "gpt_neox" and config.get("use_parallel_residual", True) is not False


def family_of(model: nn.Module) -> Family:
    """The family of a transformers causal model; a `UserError` names what was found and what was looked for."""
    model_type = str(getattr(getattr(model, "config", None), "model_type", "unknown"))
    family = FAMILIES.get(model_type)
    if family is None:
        raise UserError(
            f"The architecture {model_type!r} ({type(model).__name__}) is not one that saelab can read.",
            hint=f"It looked for one of: {', '.join(FAMILIES)}.",
        )
    base = getattr(model, family.base, None)
    missing = [n for n in (family.blocks, family.embed, family.norm) if not hasattr(base, n)]
    if base is None or missing or not hasattr(model, "lm_head"):
        raise UserError(
            f"{type(model).__name__} says it is {model_type!r} but is not laid out like it.",
            hint=f"It looked for {family.base}.{family.blocks}, .{family.embed}, .{family.norm} and lm_head.",
        )
    return family


def parts_of(family: Family, block: nn.Module) -> BlockParts:
    """The parts of one of the family's blocks."""
    attn, parallel = getattr(block, family.attn), getattr(block, "use_parallel_residual", False)
    return BlockParts(
        attn=attn,
        attn_out=getattr(block, family.attn_out),
        mlp=getattr(block, "mlp", None),
        mlp_out=getattr(block, family.mlp_out),
        mlp_norm=None if parallel else getattr(block, family.mlp_norm),
        heads=getattr(attn, family.heads),
    )
