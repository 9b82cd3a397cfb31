"""SAEBench's object contract (SAEBench 0.6.0, custom_saes/base_sae.py; spec/interpretability.md 13), without SAEBench.

W_enc [D, F] and W_dec [F, D] are parameters; encode takes any leading dimensions and returns a tensor of its own that
may be written into; decode is affine and differentiable in the codes; `cfg` is a mutable dataclass with `to_dict`.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saelab.core.errors import UserError, refuse_name
from saelab.core.sites import hook_name
from saelab.saes.base import Sae


@dataclass
class SaeBenchConfig:
    """The fields that SAEBench's evaluations read; it sets some of them itself."""

    model_name: str
    hook_name: str
    hook_layer: int
    d_in: int
    d_sae: int
    architecture: str
    dtype: str = "float32"
    device: str = "cpu"
    context_size: int = 128
    prepend_bos: bool = True
    normalize_activations: str = "none"
    hook_head_index: int | None = None
    dataset_trust_remote_code: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -1
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class SaeBenchSae(nn.Module):
    """An SAE under SAEBench's names."""

    def __init__(self, sae: Sae, cfg: SaeBenchConfig):
        super().__init__()
        self._sae = sae
        weights = sae.weights()
        self.W_enc = nn.Parameter(weights["W_enc"].clone())
        self.W_dec = nn.Parameter(weights["W_dec"].clone())
        self.b_enc = nn.Parameter(weights["b_enc"].clone())
        self.b_dec = nn.Parameter(weights["b_dec"].clone())
        self.cfg = cfg
        self.device = weights["W_dec"].device
        self.dtype = torch.float32

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """Codes, in the dtype of this module; encoded in float32."""
        return self._sae.encode(x).to(self.dtype)

    def decode(self, codes: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        """Reconstruction from codes."""
        return codes.to(self.W_dec.dtype) @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """decode(encode(x))."""
        return self.decode(self.encode(x))

    def to(self, *args: Any, **kwargs: Any) -> "SaeBenchSae":
        """Moves and casts, and keeps `device`, `dtype` and the config true. The encoder stays in float32."""
        super().to(*args, **kwargs)
        self._sae.to(torch.float32)
        self.device, self.dtype = self.W_dec.device, self.W_dec.dtype
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).removeprefix("torch.")
        return self


def to_saebench(sae: Sae, *, model_name: str | None = None, site: str | None = None) -> SaeBenchSae:
    """The SAE as an object for `sae_bench`'s evaluations, which take a list of (name, object).

    model_name: TransformerLens' name of the language model, by default the SAE's `lm`. site: where it reads, by default
    its own. Raises `UserError` where either is unknown.
    """
    refuse_name(sae, "saelab.load_sae(reference)")
    name, place = model_name or sae.cfg.lm, site or sae.cfg.site
    layer = re.search(r"\d+", place or "")
    if name is None or place is None or layer is None:
        raise UserError(
            "SAEBench wants to know the language model and the site, and the SAE's files do not say them.",
            hint="Give model_name='gemma-2-2b' and site='resid_post.12'.",
        )
    cfg = SaeBenchConfig(
        model_name=name.removeprefix("hf:").rsplit("/", 1)[-1],
        hook_name=hook_name(place) or place,
        hook_layer=int(layer.group()),
        d_in=sae.cfg.d_in,
        d_sae=sae.cfg.d_sae,
        architecture=sae.cfg.architecture,
    )
    return SaeBenchSae(sae, cfg)
