"""Matching pursuit SAE (Costa et al. 2025, arXiv 2506.03093): codes from a greedy search with the decoder alone.

    r = x - b_dec;  repeat:  j = argmax_j r W_dec[j],  v = max(r W_dec[j], 0),  z_j += v,  r -= v W_dec[j]

A token's search ends when ||r|| falls below `residual_threshold` (looked at after each step; 0: never), when a step
brought in no new latent (`stop_on_duplicate_support`), or after `max_iterations` steps (D where that is not given). The
encoder is tied, W_enc = W_dec^T, and there is no b_enc: what a step sees of a latent is the latent's own direction.
Read and applied, not trained here.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.base import Sae, SaeConfig

SETTINGS = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")


class MatchingPursuitSae(Sae):
    """Its `cfg.settings` say when a search ends."""

    saelens_name = "matching_pursuit"

    def __init__(self, cfg: SaeConfig, weights: dict[str, Tensor]):
        super().__init__(cfg, weights)
        if missing := [name for name in SETTINGS if name not in cfg.settings]:
            raise UserError(f"A matching pursuit SAE needs the settings {', '.join(missing)}.")
        threshold, steps, stop = (cfg.settings[name] for name in SETTINGS)
        ends = steps is None or (isinstance(steps, int) and steps > 0)
        if not (isinstance(threshold, int | float) and threshold >= 0 and ends and isinstance(stop, bool)):
            said = ", ".join(f"{name} {cfg.settings[name]!r}" for name in SETTINGS)
            raise UserError(f"A matching pursuit cannot end by {said}: a number, a count or null, true or false.")

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """One step of the search: the largest positive entry alone."""
        best = pre.clamp(min=0).max(dim=-1, keepdim=True)
        return torch.zeros_like(pre).scatter(-1, best.indices, best.values)

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """The whole search, for every token until its own end."""
        first = self.pre_activations(x)  # for its shape, and it checks the width
        left = x.to(torch.float32).reshape(-1, self.cfg.d_in)
        left = left - self.b_dec if self.cfg.subtract_b_dec else left
        codes = torch.zeros_like(first).reshape(-1, self.cfg.d_sae)
        going = torch.arange(len(codes), device=codes.device)
        said = self.cfg.settings
        for _ in range(said["max_iterations"] or self.cfg.d_in):
            step = self.activate(left[going] @ self.W_enc)
            value, latent = step.max(dim=1)
            new = (value > 0) & (codes[going, latent] == 0)
            codes = codes.index_put((going, latent), value, accumulate=True)
            left = left.index_put((going,), -value[:, None] * self.W_dec[latent], accumulate=True)
            done = torch.zeros_like(new)
            if said["stop_on_duplicate_support"]:
                done |= ~new
            if said["residual_threshold"] > 0:
                done |= left[going].norm(dim=1) < said["residual_threshold"]
            going = going[~done]
            if len(going) == 0:
                break
        return codes.view_as(first)
