"""Rows of several sites from passes of a language model over contexts of a text, the same for a harvest and a stream.

Only positions that count give rows (special tokens do not); a row that is not finite is refused with its place. This
file must never know where rows go.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import ArtefactError
from saelab.core.hardware import fitting, side_by_side
from saelab.text.pack import PackedText

# Rows whose moments or norms are taken together (they are widened).
TOGETHER = 4096


@runtime_checkable
class ReadsSites(Protocol):
    """What a harvest asks of a language model."""

    @property
    def reference(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def run_to(self, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> Mapping[str, Float[Tensor, "B T D"]]:
        """Activations at the sites, by name."""
        ...


def passes(
    lm: ReadsSites,
    packed: PackedText,
    batches: Sequence[slice],
    sites: Sequence[str],
    dtype: torch.dtype,
    place: torch.device | None = None,
) -> Iterator[tuple[Bool[Tensor, "B T"], dict[str, Tensor]]]:
    """Of every batch of contexts which positions count, and their rows at each site, on `place` (None: the LM's).

    Where the memory of a device is not enough for a batch, it is read in parts.
    """
    # Threads keep the cores of a processor busy; a card has one queue, and would hold the passes of all of them.
    with side_by_side(len(batches) if place_of(lm).type == "cpu" else 1) as pool:
        found = pool.map(lambda b: _read(lm, packed.tokens[b].long(), sites), batches)
        for batch, states in zip(batches, found, strict=True):
            counts = packed.part(batch).counts
            rows = {site: states[site][counts.to(states[site].device)] for site in sites}
            rows = {site: x.to(place or x.device, dtype) for site, x in rows.items()}
            for site in sites:
                _refuse_non_finite(rows[site], counts, site, batch.start)
            yield counts, rows


def _read(lm: ReadsSites, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> dict[str, Float[Tensor, "B T D"]]:
    """The activations of some contexts at each site."""

    def read(size: int) -> dict[str, Tensor]:
        parts = [lm.run_to(part, sites) for part in tokens.split(size)]
        return {site: torch.cat([p[site] for p in parts]) if len(parts) > 1 else parts[0][site] for site in sites}

    return fitting("contexts of a pass", len(tokens), read)


def place_of(lm: ReadsSites) -> torch.device:
    """Where a language model computes."""
    return getattr(lm, "device", None) or torch.device("cpu")


def norms(rows: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Norms of rows of any float type."""
    return torch.cat([piece.float().norm(dim=1) for piece in rows.split(TOGETHER)])


def _refuse_non_finite(rows: Tensor, counts: Tensor, site: str, first: int) -> None:
    """An `ArtefactError` that names context and position of the first row that is NaN or infinite."""
    bad = ~torch.isfinite(rows).all(dim=1)
    if bool(bad.any()):
        context, position = counts.nonzero()[int(bad.nonzero()[0])].tolist()
        raise ArtefactError(
            f"The language model gave NaN or infinite activations at {site}, context {first + context}, position "
            f"{position}; nothing was made of them.",
            hint="Try another dtype of the model.",
        )
