"""Activations of texts at sites, one row per token that stands for text.

Special positions (BOS, chat marks, padding) are dropped. Rows are right-padded, which changes nothing for a causal
model; blocks above the last site never run. Order: text by text, position by position.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import Site
from saelab.lm.batching import by_length, pad_right
from saelab.lm.blocks import Decoder
from saelab.lm.passes import run, stop_after

_TOKENS = 16384


def capture(
    decoder: Decoder, rows: Sequence[Sequence[int]], sites: Sequence[Site], special: frozenset[int], *, batch_size: int
) -> dict[str, Float[Tensor, "N D"]]:
    """Float32 activations by canonical site name. Raises `UserError` where no token counts."""
    pieces: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}
    kept = [torch.tensor([t not in special for t in row], dtype=torch.bool) for row in rows]
    work = [i for i, keep in enumerate(kept) if bool(keep.any())]
    if not work:
        raise UserError("There is nothing to capture: no text holds a token that is not special.")
    for batch in by_length([len(rows[i]) for i in work], rows=batch_size, tokens=_TOKENS):
        numbers = [work[i] for i in batch]
        _, captured = run(decoder, pad_right([rows[i] for i in numbers]), sites=sites, stop=stop_after(sites))
        for site, values in captured.items():
            for k, i in enumerate(numbers):
                pieces[site][i] = values[k, : len(rows[i])][kept[i].to(values.device)].float()
    return {str(site): torch.cat([found[i] for i in work]) for site, found in pieces.items()}
