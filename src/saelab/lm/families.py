"""The families whose embedding, masks and head saelab runs itself: the same numbers as the walk's (`walk.py`), sooner.

A family is data: attribute names inside the transformers model, and how positions enter. The arithmetic stays in
transformers. A model that is not here, or is not laid out like its family, is walked with its own forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saelab.core.errors import UserError

FULL = "full_attention"


@dataclass(frozen=True)
class Family:
    """Attribute names of one family.

    `base`: the decoder inside the causal model; `cache`: the block's argument for keys and values; `positions`:
    "rotary", "rotary_by_type" (Gemma 3: local and global layers turn differently) or "learned" (GPT-2, added to the
    embedding).
    """

    name: str
    base: str = "model"
    blocks: str = "layers"
    embed: str = "embed_tokens"
    norm: str = "norm"
    cache: str = "past_key_values"
    positions: Literal["rotary", "rotary_by_type", "learned"] = "rotary"


FAMILIES: dict[str, Family] = {
    "llama": Family("llama"),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma2": Family("gemma2"),
    "gemma3_text": Family("gemma3", positions="rotary_by_type"),
    "gpt2": Family("gpt2", "transformer", "h", "wte", "ln_f", positions="learned"),
    "gpt_neox": Family("gpt_neox", "gpt_neox", "layers", "embed_in", "final_layer_norm", "layer_past"),
}


def family_of(model: nn.Module) -> Family | None:
    """The family that a transformers causal model is laid out like, None where it is like none of them."""
    family = FAMILIES.get(str(getattr(getattr(model, "config", None), "model_type", "")))
    base = None if family is None else getattr(model, family.base, None)
    if family is None or base is None or not isinstance(getattr(model, "lm_head", None), nn.Linear):
        return None
    laid_out = all(hasattr(base, n) for n in (family.blocks, family.embed, family.norm))
    return family if laid_out else None


@dataclass(frozen=True)
class Shared:
    """What every block of one forward pass shares: position ids `[B, T]`, rotary tables and masks by layer type."""

    position_ids: Tensor
    rotary: dict[str, Any]
    masks: dict[str, Tensor | None]


class Listed:
    """A model of a family: what happens before, between and after its blocks.

    Masks say what transformers' say (causal, sliding window, padding), so activations equal `hidden_states` bit for bit
    when nothing is padded.
    """

    def __init__(self, model: Any, family: Family):
        self.name, self.family = family.name, family
        self._base: Any = getattr(model, family.base)
        self.blocks: list[nn.Module] = list(getattr(self._base, family.blocks))
        self._embed: Any = getattr(self._base, family.embed)
        self._norm: Any = getattr(self._base, family.norm)
        self._head: Any = model.lm_head
        config = model.config
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._window = getattr(config, "sliding_window", None)
        types = getattr(config, "layer_types", None)
        self._types: list[str] = list(types) if types else [FULL] * len(self.blocks)
        self._eager = config._attn_implementation == "eager"

    def embed(self, tokens: Int[Tensor, "B T"], position_ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T D"]:
        """The stream before block 0 (learned positions included, where the family has them)."""
        hidden = self._embed(tokens)
        if self.family.positions != "learned":
            return hidden
        check_below(position_ids, self._base.wpe.num_embeddings, "position", "Give shorter texts or contexts.")
        return hidden + self._base.wpe(position_ids)

    def frame(
        self, position_ids: Int[Tensor, "b T"], *, past: int = 0, mask: Bool[Tensor, "B S"] | None = None
    ) -> Shared:
        """What the blocks share in a pass over T positions after `past` cached ones; mask as `Decoder.frame`."""
        weight = self._head.weight
        like = torch.empty(0, dtype=weight.dtype, device=weight.device)
        rotary: dict[str, Any] = {}
        for layer_type in set(self._types):
            if self.family.positions == "rotary":
                rotary[layer_type] = next(iter(rotary.values()), None) or self._base.rotary_emb(like, position_ids)
            elif self.family.positions == "rotary_by_type":
                rotary[layer_type] = self._base.rotary_emb(like, position_ids, layer_type)
        length = position_ids.shape[1]
        masks = {t: self._mask(length, past, mask, None if t == FULL else self._window) for t in set(self._types)}
        return Shared(position_ids, rotary, masks)

    def call(self, i: int, hidden: Float[Tensor, "B T D"], frame: Shared, cache: Any) -> Float[Tensor, "B T D"]:
        """The stream after block i."""
        layer_type = self._types[i]
        arguments = {"attention_mask": frame.masks[layer_type], "position_ids": frame.position_ids}
        if frame.rotary:
            arguments["position_embeddings"] = frame.rotary[layer_type]
        out = self.blocks[i](hidden, **arguments, **{self.family.cache: cache})
        return out[0] if isinstance(out, tuple) else out  # older transformers return tuples

    def unembed(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Final norm, head and (Gemma) the soft cap on logits."""
        logits = self._head(self._norm(hidden))
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def _mask(self, length: int, past: int, mask: Tensor | None, window: int | None) -> Tensor | None:
        """Which keys each query may see, `[B or 1, 1, T, S]`; None where plain causal attention says the same."""
        total = past + length
        slides = window is not None and total > window  # below that, nothing is out of the window
        if mask is None and not slides and (length == 1 or (past == 0 and not self._eager)):
            return None
        keys = torch.arange(total, device=self._head.weight.device)
        queries = keys[past:, None]
        allowed = keys <= queries
        if window is not None and slides:
            allowed = allowed & (queries - keys < window)
        if mask is not None:
            # A padding query sees itself, so that no softmax runs over nothing; nobody reads what it gives.
            allowed = (allowed & mask[:, None, :]) | (keys == queries)
        allowed = allowed.view(-1, 1, length, total)
        if not self._eager:
            return allowed
        dtype = self._head.weight.dtype
        zero = torch.zeros((), dtype=dtype, device=keys.device)
        return torch.where(allowed, zero, torch.finfo(dtype).min)


def check_below(numbers: Tensor, rows: int, what: str, hint: str) -> None:
    """Refuse what no embedding holds; an accelerator would not survive the look-up."""
    most = int(numbers.max()) if numbers.numel() else 0
    if most >= rows:
        raise UserError(f"There is a {what} {most}, and the model has embeddings of {rows}, from 0 on.", hint=hint)


# Families whose attention and MLP always read the same stream.
_PARALLEL = ("codegen", "cohere", "cohere2", "gptj", "phi")


def is_parallel(config: Mapping[str, Any]) -> bool:
    """Whether attention and MLP of a block read the same stream, as far as a model's config says it."""
    if config.get("model_type") == "gpt_neox":
        return config.get("use_parallel_residual", True) is not False
    return config.get("model_type") in _PARALLEL or bool(config.get("parallel_attn"))
