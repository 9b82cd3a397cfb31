"""Decoder rows of one site: what can be matched or steered with where there is no autoencoder of that site.

A transcoder, a crosscoder and a cross-layer transcoder write to sites without reading them back, so the rows are all
that they share with an SAE of such a site. This file must never know where the rows come from.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError


@dataclass(frozen=True)
class Directions:
    """What latents write to one site. `latents[i]`: the number, in its dictionary, of the latent behind row i."""

    W_dec: Float[Tensor, "N D"]
    site: str
    latents: Int[Tensor, " N"]
    lm: str | None = None

    def __repr__(self) -> str:
        return f"<Directions at {self.site} of {self.lm or 'a model unsaid'}: {len(self.latents):,} latents>"

    def row_of(self, latent: int) -> int:
        """The row of a latent; one that writes nothing to this site is a `UserError`."""
        found = (self.latents == latent).nonzero()
        if not len(found):
            least, most = int(self.latents.min()), int(self.latents.max())
            raise UserError(f"Latent {latent} does not write to {self.site}.", hint=f"Latents {least} to {most} do.")
        return int(found[0])


def site_in(sites: tuple[str, ...], wanted: str | None) -> int:
    """The place of a site among those that a dictionary writes; without one, there must be only one to choose."""
    if wanted is None and len(sites) == 1:
        return 0
    if wanted in sites:
        return sites.index(wanted)
    asked = f"not {wanted}" if wanted else "one of them must be named"
    raise UserError(f"It writes to {', '.join(sites)}, and {asked}.", hint=f"Name one: REFERENCE#{sites[0]}")
