"""Random SAEs of every architecture, with lively weights, for the tests of formats and for tools/write_for_peers.py."""

import torch
from torch import Tensor

from saelab.saes.architectures.matching_pursuit import SETTINGS
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.catalogue import MODULES
from saelab.saes.normalised import NormalisedSae, normalised

D, F, K, N = 16, 48, 5, 12

# name -> (module, architecture); a batchtopk has one threshold for all latents
CASES = {
    "standard": ("standard", "relu"),
    "gated": ("gated", "gated"),
    "topk": ("topk", "topk"),
    "jumprelu": ("jumprelu", "jumprelu"),
    "batchtopk": ("jumprelu", "batchtopk"),
    "matching_pursuit": ("matching_pursuit", "matching_pursuit"),
    "layer_norm": ("topk", "topk"),  # tokens normalised at run time, around a TopK
}


def random_sae(case: str, *, subtract: bool = True, seed: int = 0) -> Sae:
    """One of CASES."""
    kind, architecture = CASES[case]
    g = torch.Generator().manual_seed(seed)
    module = MODULES[kind]
    w = {
        "W_enc": torch.randn(D, F, generator=g) * 0.4,
        "W_dec": torch.nn.functional.normalize(torch.randn(F, D, generator=g), dim=1),
        "b_enc": torch.randn(F, generator=g) * 0.3,
        "b_dec": torch.randn(D, generator=g) * 0.3,
        "threshold": torch.full((F,), 0.6) if architecture == "batchtopk" else torch.rand(F, generator=g) * 0.8,
        "r_mag": torch.randn(F, generator=g) * 0.3,
        "b_mag": torch.randn(F, generator=g) * 0.3,
    }
    cfg = SaeConfig(
        architecture=architecture,
        d_in=D,
        d_sae=F,
        k=K if case in ("topk", "batchtopk", "layer_norm") else None,
        subtract_b_dec=subtract,
        site="resid_post.3",
        lm="hf:gpt2",
    )
    if case == "matching_pursuit":
        w |= {"W_enc": w["W_dec"].T, "b_enc": torch.zeros(F)}
        cfg = cfg.model_copy(update={"settings": dict(zip(SETTINGS, (0.5, None, True), strict=True))})
    sae = module(cfg, {n: w[n] for n in module.weight_names()})
    return normalised(sae, "layer_norm") if case == "layer_norm" else sae


def own_codes(sae: Sae, codes: Tensor) -> Tensor:
    """The codes in the peers' unit: theirs are of the normalised token, and what ours carry is out of sight."""
    if not isinstance(sae, NormalisedSae):
        return codes
    n = sae.inner().cfg.d_sae
    return codes[:, :n] / codes[:, n : n + 1]


def inputs() -> Tensor:
    """Activations [N, D], the same as in tools/golden_saes.py."""
    return torch.randn(N, D, generator=torch.Generator().manual_seed(99))
