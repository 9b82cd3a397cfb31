"""Does a dictionary that writes to other sites than it reads rebuild them? FVU of every written site, on real text.

    FVU_t = sum ||y_t - ŷ_t||^2 / sum ||y_t - ȳ_t||^2,  ŷ from the sites that are read

The same FVU without codes (biases and skip connection alone) stands beside it as the control: what the codes explain
lies between the two. Special positions and attention sinks are not counted. This file must never know a file format.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.site import sink_bound
from saelab.core.errors import UserError
from saelab.core.sites import find_site
from saelab.interp.fidelity.measures import Restartable
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.transcoder import Transcoder
from saelab.text.pack import PackedText

MARGIN = 0.9  # codes that leave more of the error than this explain nothing worth the name


@dataclass(frozen=True)
class Rebuilt:
    """One written site: its FVU, and the FVU without any code."""

    site: str
    fvu: float
    without_codes: float


@dataclass(frozen=True)
class RebuiltSites:
    """What was measured. l0: active latents per token, of all blocks. holds: every site is rebuilt by its codes."""

    tokens: int
    l0: float
    sites: tuple[Rebuilt, ...]

    @property
    def holds(self) -> bool:
        return all(s.fvu < min(1.0, MARGIN * s.without_codes) for s in self.sites)


def ends(found: Transcoder | Crosscoder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sites that are read and those that are written, by name."""
    if isinstance(found, Crosscoder):
        return found.cfg.sites, found.cfg.sites_out
    return (found.cfg.site or "an unnamed site",), (found.cfg.site_out or "an unnamed site",)


def unreadable(found: Transcoder | Crosscoder) -> list[str]:
    """The places among both ends that are no sites here, such as an MLP's normalised input."""
    return [name for name in dict.fromkeys(sum(ends(found), ())) if find_site(name) is None]


def rebuilt_sites(
    lm: Restartable, found: Transcoder | Crosscoder, packed: PackedText, *, batch_size: int = 8
) -> RebuiltSites:
    """Run the LM once and measure. Raises `UserError` where an end is no site, or of another width."""
    if places := unreadable(found):
        raise UserError(f"{', '.join(places)}: no site whose activations can be read here.")
    read, written = ends(found)
    names = list(dict.fromkeys(read + written))
    with torch.inference_mode():
        passes = [lm.run_to(part, names) for part in packed.tokens.long().split(batch_size)]
        hidden = {n: torch.cat([p[n].float().cpu() for p in passes]) for n in names}
        kept = packed.counts.clone()
        for x in hidden.values():
            norms = x.norm(dim=-1)
            kept &= norms <= sink_bound(norms[packed.counts])
        x, y = (_stacked([hidden[n][kept] for n in of], found, of) for of in (read, written))
        several = isinstance(found, Crosscoder)
        codes = found.encode(x if several else x[:, 0])
        ours = found(x if several else x[:, 0])
        # What the codes add is linear in them, so the rest of the output is what it is without them.
        bare = ours - found.decode(codes) + found.decode(torch.zeros_like(codes))
    ours, bare = (t if several else t[:, None] for t in (ours, bare))
    active = codes > 0
    if several and found.cfg.kind == "crosscoder":
        active = active.any(-2)  # a latent is one latent, whatever sites it is let through to
    l0 = float(active.flatten(1).sum(1).double().mean())
    sites = [Rebuilt(n, _fvu(y[:, t], ours[:, t]), _fvu(y[:, t], bare[:, t])) for t, n in enumerate(written)]
    return RebuiltSites(len(x), l0, tuple(sites))


def _stacked(rows: Sequence[Float[Tensor, "N D"]], found: Transcoder | Crosscoder, of: Sequence[str]) -> Tensor:
    wanted = {found.cfg.d_in, found.cfg.d_out}
    widths = {r.shape[1] for r in rows}
    if len(widths) != 1 or not widths <= wanted:
        raise UserError(
            f"The language model has width {sorted(widths)} at {', '.join(of)}; the dictionary has {sorted(wanted)}.",
            hint="Give the language model that it was trained on.",
        )
    return torch.stack(list(rows), 1)


def _fvu(y: Float[Tensor, "N D"], rebuilt: Float[Tensor, "N D"]) -> float:
    y = y.double()
    return float((y - rebuilt.double()).square().sum() / (y - y.mean(0)).square().sum())
