"""Tiny language models with random weights and a working byte-level tokenizer, one for each family.

For tests and examples: the real block code of each family at a size that runs in milliseconds. The weights are drawn
from a generator of their own; they mean nothing, but they are lively: no block is near the identity, and the head is
not tied to the embedding, so that texts do not just repeat.
"""

from typing import Any

from saelab.core.errors import UserError, nearest
from saelab.core.seeds import seed_of
from saelab.lm.model import LanguageModel
from saelab.lm.shrink import lively_model

SPECIALS = ("<bos>", "<eos>", "<pad>", "<turn>")
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_CHAT = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
_WINDOW = 8  # of the sliding layers: short, so that short tests cross it


def tiny_lm(
    family: str = "llama", *, n_layers: int = 3, d_model: int = 32, vocab: int = 384, seed: int = 0
) -> LanguageModel:
    """A random model of a family (llama, qwen2, qwen3, gemma2, gemma3, gpt2, gpt_neox); same arguments, same model.

    vocab: 256 bytes, 4 special tokens, the rest two-letter merges. d_model: a multiple of 16.
    """
    from transformers import AutoConfig

    shapes = _shapes(n_layers, d_model)
    if family not in shapes:
        raise UserError(f"{family!r} is not a family of tiny models.", hint=nearest(family, shapes))
    if vocab < 256 + len(SPECIALS):
        raise UserError(f"A byte-level vocabulary has at least {256 + len(SPECIALS)} tokens, not {vocab}.")
    ids = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258, "tie_word_embeddings": False}
    model_type = "gemma3_text" if family == "gemma3" else family
    config = AutoConfig.for_model(model_type, vocab_size=vocab, **ids, **shapes[family])
    model = lively_model(config, seed_of(seed, "tiny_lm", family))
    return LanguageModel(model, tiny_tokenizer(vocab), reference=f"tiny:{family}", name=f"tiny-{family}")


def _shapes(n_layers: int, d_model: int) -> dict[str, dict[str, Any]]:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": d_model // 4}
    common = {
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "intermediate_size": 2 * d_model,
        "max_position_embeddings": 512,
    }
    types = ["full_attention" if i % 2 else "sliding_attention" for i in range(n_layers)]
    sliding = {"sliding_window": _WINDOW, "layer_types": types, "query_pre_attn_scalar": d_model // 4}
    gpt2 = {"n_embd": d_model, "n_layer": n_layers, "n_head": 4, "n_positions": 512}
    return {
        "llama": {**common, **heads},
        "qwen2": {**common, "num_attention_heads": 4, "num_key_value_heads": 2},
        "qwen3": {**common, **heads},
        "gemma2": {**common, **heads, **sliding},
        "gemma3": {**common, **heads, **sliding},
        "gpt2": gpt2,
        "gpt_neox": {**common, "num_attention_heads": 4},
    }


def tiny_tokenizer(vocab: int) -> Any:
    """A byte-level tokenizer of so many tokens, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in _LETTERS for b in _LETTERS][: vocab - 256 - len(SPECIALS)]
    pieces = [*alphabet, *SPECIALS, *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<turn>"],
    )
    tokenizer.chat_template = _CHAT
    return tokenizer
