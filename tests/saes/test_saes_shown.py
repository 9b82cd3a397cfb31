"""What an object says of itself at a prompt: what it is, of what, how large; never its tensors."""

import numpy as np
import pytest
import torch

from saelab.lm.tiny import tiny_lm
from saelab.matching.match import Matching, match
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.crosscoder import Crosscoder, CrosscoderConfig
from saelab.saes.directions import Directions
from saelab.saes.transcoder import transcoder

D, F = 8, 16


def sae(kind: type[Sae], seed: int = 0, **about: object) -> Sae:
    rows = torch.randn(F, D, generator=torch.Generator().manual_seed(seed))
    weights = {"W_enc": rows.T.clone(), "W_dec": rows, "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    weights |= {"threshold": torch.ones(F)} if kind is JumpReluSae else {}
    return kind(SaeConfig.parse({"d_in": D, "d_sae": F} | about), weights)


def test_each_says_what_it_is() -> None:
    one = sae(TopKSae, architecture="topk", k=3, site="resid_post.1", lm="gpt2")
    assert repr(one) == "<Sae topk at resid_post.1 of gpt2: 16 features of width 8, k 3>"
    other = sae(JumpReluSae, architecture="jumprelu", metadata={"l0": 2.34567})
    assert repr(other) == "<Sae jumprelu at a site unsaid of a model unsaid: 16 features of width 8, L0 2.346>"
    assert repr(sae(JumpReluSae, architecture="jumprelu")).endswith("width 8>")
    lm = repr(tiny_lm())
    assert lm.startswith("<LanguageModel tiny") and "blocks of width" in lm and "torch.float32 on cpu" in lm
    rows = Directions(one.W_dec, "resid_post.1", torch.arange(F))
    assert repr(rows) == "<Directions at resid_post.1 of a model unsaid: 16 latents>"
    weights = {"W_enc": torch.ones(D, F), "b_enc": torch.ones(F), "W_dec": torch.ones(F, D), "b_dec": torch.ones(D)}
    through = transcoder(weights, act_fn="relu", site="mlp_in.1", site_out="mlp_out.1", lm="gpt2")
    assert repr(through) == "<Transcoder relu from mlp_in.1 to mlp_out.1 of gpt2: 16 latents>"


def test_a_crosscoder_says_its_sites() -> None:
    sites = ("resid_post.1", "resid_post.2")
    cfg = CrosscoderConfig.parse(
        {"kind": "crosscoder", "act_fn": "relu", "sites": sites, "sites_out": sites, "writes": ((0,), (1,)),
         "d_in": D, "d_out": D, "d_sae": F}
    )  # fmt: skip
    weights = {"W_enc": torch.ones(2, D, F), "b_enc": torch.ones(F), "b_dec": torch.ones(2, D)}
    weights |= {f"W_dec_{b}": torch.ones(F, 1, D) for b in (0, 1)}
    shown = repr(Crosscoder(cfg, weights))
    assert shown == (
        "<Crosscoder crosscoder: reads resid_post.1, resid_post.2; writes resid_post.1, resid_post.2; "
        "2 sets of 16 latents>"
    )


@pytest.mark.parametrize("reject", [None, 1e-9])
def test_a_matching_says_how_good_it_is(reject: float | None) -> None:
    """Of an SAE with itself everything is matched at cosine 1; with a reject cost of next to nothing too."""
    one = sae(TopKSae, architecture="topk", k=3)
    found = repr(match(one, one, fold="none", reject=reject))
    assert found.startswith("<Matching of 16 of 16 features: median cosine 1.00, cost ") and "array" not in found
    none = match(one, sae(TopKSae, seed=1, architecture="topk", k=3), fold="none", reject=1e-9)
    assert isinstance(none, Matching) and not np.isfinite(none.cosine).any()
    assert repr(none).startswith("<Matching of 0 of 16 features: median cosine missing, ")
