"""What a text looks like to the LM and to an SAE, as one vector each.

    x(text) = mean over its tokens of the site's activation,      f(text) = mean over its tokens of the SAE's codes

Special tokens and padding count for nothing. (SAEBench tells padding by rows whose sum is
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
from saelab.lm.batching import pad_right
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae


@dataclass(frozen=True)
class TextActivations:
    """Activations of all counted tokens of N texts: `rows` [M, D], and the text of each (`text` [M], ascending)."""

    rows: Float[Tensor, "M D"]
    text: Int[Tensor, " M"]
    n_texts: int


def read_ids(
    lm: LanguageModel,
    ids: Sequence[Sequence[int]],
    sites: Sequence[str],
    *,
    context: int = 128,
    cut: Literal["right", "left"] = "right",
    last: bool = False,
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> dict[str, TextActivations]:
    """One pass of the LM over token ids, longest together so that little is padded: activations at every site.

    cut: which end loses what is over `context` tokens (the first token, BOS, stays). last: keep each text's last
    counted token only. Raises `UserError` for a text without a single token to count.
    """
    rows = [_cut(list(row), context, cut) for row in ids]
    special = torch.tensor(sorted(lm.special_ids))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = {site: [torch.empty(0)] * len(rows) for site in sites}
    with progress.task(f"reading {len(rows)} texts", sum(map(len, rows)), "tokens") as task, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            # padded on the right: causal attention never looks there, so no mask is needed
            hidden = lm.run_to(pad_right([rows[i] for i in part]), sites)
            for row, i in enumerate(part):
                where = (~torch.isin(torch.tensor(rows[i]), special)).nonzero()[:, 0]
                if not len(where):
                    raise UserError(
                        f"Text {i} ({lm.decode(rows[i])[:40]!r}) has no token to count.", hint="Leave it out."
                    )
                for site in sites:
                    found[site][i] = hidden[site][row, where[-1:] if last else where].to("cpu", torch.bfloat16)
            task.advance(sum(len(rows[i]) for i in part))
    lengths = torch.tensor([len(x) for x in found[sites[0]]])
    text = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    return {site: TextActivations(torch.cat(parts), text, len(rows)) for site, parts in found.items()}


def _cut(row: list[int], context: int, end: str) -> list[int]:
    if len(row) <= context:
        return row
    return row[:context] if end == "right" else [row[0], *row[len(row) - context + 1 :]]


def pool_activations(read: TextActivations) -> Float[Tensor, "N D"]:
    """x(text) for every text, in float32."""
    total = torch.zeros(read.n_texts, read.rows.shape[1]).index_add_(0, read.text, read.rows.float())
    return total / torch.bincount(read.text, minlength=read.n_texts)[:, None]


def pool_codes(sae: Sae, read: TextActivations, *, block: int = 8192) -> Float[Tensor, "N F"]:
    """f(text) for every text, in float32. Independent of `block` up to rounding."""
    total = torch.zeros(read.n_texts, sae.cfg.d_sae)
    with torch.inference_mode():
        for rows, text in zip(read.rows.split(block), read.text.split(block), strict=True):
            total.index_add_(0, text, sae.encode(rows.float()))
    return total / torch.bincount(read.text, minlength=read.n_texts)[:, None]
