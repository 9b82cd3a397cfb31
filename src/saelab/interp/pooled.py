"""What a text looks like to the LM and to an SAE, as one vector each.

    x(text) = mean over its tokens of the site's activation,      f(text) = mean over its tokens of the SAE's codes

or those of its last token. Special tokens and padding count for nothing. (SAEBench tells padding by rows whose sum is
zero, and so drops real tokens in bf16 now and then; here positions are known.) The LM runs once per data set; each SAE
then costs its encoding alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae

Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class TextActivations:
    """Activations of all counted tokens of N texts: `rows` [M, D], and the text of each (`text` [M], ascending)."""

    rows: Float[Tensor, "M D"]
    text: Int[Tensor, " M"]
    n_texts: int


def read_texts(
    lm: LanguageModel,
    texts: Sequence[str],
    site: str,
    *,
    context: int = 128,
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> TextActivations:
    """Run the LM over texts cut to `context` tokens (BOS included), longest together so that little is padded.

    Raises `UserError` for a text without a single token to count.
    """
    ids = [row[:context] for row in lm.tokenize(texts)]
    special = torch.tensor(sorted(lm.special_ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: list[Tensor] = [torch.empty(0)] * len(ids)
    with progress.task(f"reading {len(ids)} texts", sum(map(len, ids)), "tokens") as task, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            longest = max(len(ids[i]) for i in part)
            # padded on the right: causal attention never looks there, so no mask is needed
            tokens = torch.full((len(part), longest), lm.bos_id if lm.bos_id is not None else 0)
            counts = torch.zeros(tokens.shape, dtype=torch.bool)
            for row, i in enumerate(part):
                tokens[row, : len(ids[i])] = torch.tensor(ids[i])
                counts[row, : len(ids[i])] = ~torch.isin(tokens[row, : len(ids[i])], special)
            hidden = lm.run_to(tokens, [site])[site].cpu()
            for row, i in enumerate(part):
                found[i] = hidden[row][counts[row]].to(torch.bfloat16)
            task.advance(sum(len(ids[i]) for i in part))
    empty = [i for i, x in enumerate(found) if not len(x)]
    if empty:
        raise UserError(f"Text {empty[0]} ({texts[empty[0]][:40]!r}) has no token to count.", hint="Leave it out.")
    lengths = torch.tensor([len(x) for x in found])
    return TextActivations(torch.cat(found), torch.repeat_interleave(torch.arange(len(found)), lengths), len(found))


def pool_activations(read: TextActivations, pooling: Pooling = "mean") -> Float[Tensor, "N D"]:
    """x(text) for every text, in float32."""
    return _pooled(read.rows.float(), read, pooling)


def pool_codes(
    sae: Sae, read: TextActivations, pooling: Pooling = "mean", *, block: int = 8192
) -> Float[Tensor, "N F"]:
    """f(text) for every text, in float32. Independent of `block` up to rounding."""
    if pooling == "last":
        last = torch.cat([read.text[1:] != read.text[:-1], torch.ones(1, dtype=torch.bool)])
        return sae.encode(read.rows[last].float())
    total = torch.zeros(read.n_texts, sae.cfg.d_sae)
    with torch.inference_mode():
        for rows, text in zip(read.rows.split(block), read.text.split(block), strict=True):
            total.index_add_(0, text, sae.encode(rows.float()))
    return total / torch.bincount(read.text, minlength=read.n_texts)[:, None]


def _pooled(values: Tensor, read: TextActivations, pooling: Pooling) -> Tensor:
    if pooling == "last":
        last = torch.cat([read.text[1:] != read.text[:-1], torch.ones(1, dtype=torch.bool)])
        return values[last]
    total = torch.zeros(read.n_texts, values.shape[1]).index_add_(0, read.text, values)
    return total / torch.bincount(read.text, minlength=read.n_texts)[:, None]
