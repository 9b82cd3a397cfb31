"""Dictionaries of several sites: with one site an SAE or a transcoder, and sites are labels, not places."""

from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import SaeConfig
from saelab.saes.catalogue import MODULES
from saelab.saes.crosscoder import Crosscoder, crosscoder
from saelab.saes.transcoder import transcoder

S, D, F, K, N = 3, 8, 20, 4, 9
SITES = ("resid_post.1", "resid_post.4", "resid_post.6")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


X = drawn(N, S, D, seed=7)
W_ENC, W_DEC, B_DEC = drawn(S, D, F), drawn(S, F, D, seed=1), drawn(S, D, seed=2)
THETA = drawn(S, F, seed=3).abs()


def made(kind: str, gate: str = "jumprelu", **about: Any) -> Crosscoder:
    """Random weights; every block of a cross-layer transcoder writes its own site and the later ones."""
    if kind == "crosscoder":
        b_enc, decoders = drawn(F, seed=5), [{b: W_DEC[b]} for b in range(S)]
    else:
        b_enc, decoders = drawn(S, F, seed=5), [{t: drawn(F, D, seed=9 * b + t) for t in range(b, S)} for b in range(S)]
    weights = {"W_enc": W_ENC, "b_enc": b_enc, "b_dec": B_DEC} | ({"threshold": THETA} if gate == "jumprelu" else {})
    weights |= about.pop("extra", {})
    k = {"k": K} if gate == "topk" else {}
    return crosscoder(weights, decoders, kind=kind, act_fn=gate, sites=SITES, sites_out=SITES, **k, **about)


def test_with_one_site_a_crosscoder_is_the_sae() -> None:
    weights = {"W_enc": W_ENC[0], "b_enc": drawn(F, seed=5), "W_dec": W_DEC[0], "b_dec": B_DEC[0]}
    sae = MODULES["jumprelu"](
        SaeConfig(architecture="jumprelu", d_in=D, d_sae=F, subtract_b_dec=False), weights | {"threshold": THETA[0]}
    )
    own = {"W_enc": W_ENC[:1], "b_enc": weights["b_enc"], "b_dec": B_DEC[:1], "threshold": THETA[:1]}
    one = crosscoder(own, [{0: W_DEC[0]}], kind="crosscoder", act_fn="jumprelu", sites=SITES[:1], sites_out=SITES[:1])
    x = X[:, :1]
    assert torch.equal(one.encode(x)[:, 0], sae.encode(x[:, 0])) and bool((one.encode(x) > 0).any())
    assert torch.allclose(one(x)[:, 0], sae(x[:, 0]), atol=1e-6)
    assert not torch.allclose(one(x)[:, 0], sae(x[:, 0] + 1), atol=1e-6)  # control


def test_with_one_site_a_cross_layer_transcoder_is_the_transcoder() -> None:
    weights = {"W_enc": W_ENC[0], "b_enc": drawn(F), "W_dec": W_DEC[0], "b_dec": B_DEC[0], "W_skip": drawn(D, D)}
    plain = transcoder(weights, act_fn="topk", k=K)
    own = {n: weights[n][None] for n in ("W_enc", "b_enc", "b_dec", "W_skip")}
    about = {"sites": ("a",), "sites_out": ("b",), "act_fn": "topk", "k": K}
    one = crosscoder(own, [{0: W_DEC[0]}], kind="cross_layer", **about)
    assert torch.allclose(one(X[:, :1])[:, 0], plain(X[:, 0]), atol=1e-6)
    assert not torch.allclose(one.decode(one.encode(X[:, :1]))[:, 0], plain(X[:, 0]), atol=1e-3)  # control: no skip


def test_permuted_sites_permute_what_is_written() -> None:
    order = torch.tensor([2, 0, 1])
    first = made("crosscoder")
    weights = {"W_enc": W_ENC[order], "b_enc": first.weights()["b_enc"], "b_dec": B_DEC[order]}
    names = tuple(SITES[i] for i in order)
    second = crosscoder(
        weights | {"threshold": THETA[order]},
        [{b: W_DEC[i]} for b, i in enumerate(order)],
        kind="crosscoder", act_fn="jumprelu", sites=names, sites_out=names,
    )  # fmt: skip
    assert torch.allclose(second(X[:, order]), first(X)[:, order], atol=1e-5)
    assert not torch.allclose(second(X), first(X)[:, order], atol=1e-3)  # control: inputs in the old order


def test_a_crosscoder_reads_all_sites_and_a_cross_layer_block_its_own() -> None:
    moved = X.clone()
    moved[:, 1] += 1
    both, own = made("crosscoder", "relu"), made("cross_layer", "relu")
    assert all(bool((both.encode(moved) != both.encode(X))[:, b].any()) for b in range(S))
    changed = [bool((own.encode(moved) != own.encode(X))[:, b].any()) for b in range(S)]
    assert changed == [False, True, False]
    # Causal: what is read at site 1 reaches sites 1 and 2 alone.
    reached = [bool((own(moved) != own(X))[:, t].any()) for t in range(S)]
    assert reached == [False, True, True]


def test_codes_and_output_as_the_formula_says() -> None:
    found = made("cross_layer")
    pre = torch.stack([X[:, s] @ W_ENC[s] + drawn(S, F, seed=5)[s] for s in range(S)], 1)
    codes = pre.clamp(min=0) * (pre > THETA)
    assert torch.allclose(found.encode(X), codes, atol=1e-6) and bool((codes > 0).any())
    last = sum(codes[:, b] @ drawn(F, D, seed=9 * b + 2) for b in range(S)) + B_DEC[2]
    assert torch.allclose(found(X)[:, 2], last, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_top_k_per_set_or_of_all_sets(joint: bool) -> None:
    codes = made("cross_layer", "topk", joint=joint).encode(X)
    per_block = (codes > 0).sum(-1)
    if joint:
        assert bool((per_block.sum(-1) == K).all()) and bool((per_block != K).any())
    else:
        assert bool((per_block == K).all())


def test_a_gain_changes_which_latents_are_kept_and_not_their_codes() -> None:
    plain = made("crosscoder", "topk")
    gain = torch.ones(S, F)
    gain[1] = torch.linspace(0.01, 3, F)
    weighed = made("crosscoder", "topk", extra={"gain": gain})
    a, b = plain.encode(X), weighed.encode(X)
    assert torch.equal(a[:, 0], b[:, 0]) and not torch.equal(a[:, 1], b[:, 1])
    kept = (a[:, 1] > 0) & (b[:, 1] > 0)
    assert bool(kept.any()) and torch.equal(a[:, 1][kept], b[:, 1][kept])


def test_directions_of_a_site_are_what_its_sets_write_there() -> None:
    cross = made("crosscoder").directions(SITES[1])
    assert torch.equal(cross.W_dec, W_DEC[1]) and torch.equal(cross.latents, torch.arange(F))
    layers = made("cross_layer").directions(SITES[1])
    assert torch.equal(layers.W_dec, torch.cat([drawn(F, D, seed=1), drawn(F, D, seed=10)]))
    assert torch.equal(layers.latents, torch.arange(2 * F))
    with pytest.raises(UserError, match="one of them must be named"):
        made("crosscoder").directions()
    with pytest.raises(UserError, match=r"not mlp_out\.1"):
        made("crosscoder").directions("mlp_out.1")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArtefactError, match="W_enc is"):
        crosscoder(
            {"W_enc": W_ENC[:2], "b_enc": drawn(F), "b_dec": B_DEC},
            [{b: W_DEC[b]} for b in range(S)],
            kind="crosscoder", act_fn="relu", sites=SITES, sites_out=SITES,
        )  # fmt: skip
    with pytest.raises(UserError, match="alone"):
        decoders = [{0: W_DEC[0], 1: W_DEC[1]}, {1: W_DEC[1]}, {2: W_DEC[2]}]
        about = {"kind": "crosscoder", "act_fn": "relu", "sites": SITES, "sites_out": SITES}
        crosscoder({"W_enc": W_ENC, "b_enc": drawn(F), "b_dec": B_DEC}, decoders, **about)
    with pytest.raises(UserError, match="k = 99"):
        made("cross_layer", "topk").cfg.parse(made("cross_layer", "topk").cfg.model_dump() | {"k": 99})
    with pytest.raises(UserError, match="sites of width"):
        made("crosscoder").encode(X[:, 0])
