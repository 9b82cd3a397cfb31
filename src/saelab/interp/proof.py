"""Does an SAE do what its files say? Its error on real activations, beside the error under each likely mistake.

Conventions of files are rarely written down, and a wrong one does not raise: it only reconstructs worse. So the
SAE is measured as declared and under every single change that people get wrong: the site one block off (`hidden_states`
counts from the embedding), b_dec subtracted or not or lost, a threshold that was lost, inputs that should be scaled or
normalised. If one of these explains clearly more with as few latents, or alone has the claimed L0, that is what is
wrong. A lost threshold cannot be seen in the error (without its threshold a BatchTopK SAE explains more, with five
times the latents), only in L0 against the claim. This file must never know a file format, and never repairs anything:
it names.

    FVU = sum ||x - xh||^2 / sum ||x - xbar||^2          (fidelity/measures.py)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.site import SitePass, read_site, read_states
from saelab.core.errors import UserError
from saelab.core.sites import Site, parse_site
from saelab.interp.fidelity.measures import baselines_of, reconstruction_of, splice
from saelab.lm.model import LanguageModel
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.matching_pursuit import MatchingPursuitSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import Sae, bound_for
from saelab.saes.formats.conventions import scaled_in
from saelab.saes.given import GivenSae
from saelab.saes.normalised import INNER, NormalisedSae, normalised
from saelab.text.pack import PackedText

# Another convention is believed only if it leaves less than this share of the declared one's error: neighbouring sites
# of a good SAE come within a tenth of each other where blocks add little.
MARGIN = 0.9
L0_FACTOR = 1.5  # on another text L0 moves by a few tens of percent
SAMPLE = 1024  # rows on which thresholds are looked for


@dataclass(frozen=True)
class Variant:
    """The SAE under certain conventions: `change` is what differs from the declared ones ("as declared": nothing)."""

    change: str
    l0: float
    fvu: float


@dataclass(frozen=True)
class Proof:
    """What was measured, and the verdict. `holds`: the declared conventions stand."""

    site: str
    tokens: int
    claims: dict[str, float]
    variants: tuple[Variant, ...]
    ce: dict[str, float | None]
    holds: bool
    verdict: str

    @property
    def declared(self) -> Variant:
        return self.variants[0]


def prove(lm: LanguageModel, sae: Sae, packed: PackedText, *, site: str | None = None, batch_size: int = 8) -> Proof:
    """Measure L0, FVU and cross-entropy recovered of an SAE on real text, and say which assumption fits.

    site: where to read, by default the SAE's own. Raises `UserError` without a site, or where the widths differ.
    """
    name = site or sae.cfg.site
    if name is None:
        raise UserError("The SAE's files do not say which site it reads.", hint="Give it: --site resid_post.12")
    place = parse_site(name)
    clean = read_site(lm, packed, str(place), batch_size=batch_size)
    rows = clean.rows
    if rows.shape[1] != sae.cfg.d_in:
        raise UserError(
            f"{lm.name} has width {rows.shape[1]} at {place}; the SAE reads width {sae.cfg.d_in}.",
            hint="Give the language model that it was trained on.",
        )
    claims = claims_of(sae)
    variants = [_measured("as declared", sae, rows)]
    variants += [_measured(change, other, rows) for change, other in _other_gates(sae, rows, claims.get("l0"))]
    for other, x in _neighbours(lm, clean, place).items():
        variants.append(_measured(f"reads {other}", sae, x))
    holds, verdict = _verdict(variants, claims)
    return Proof(str(place), len(rows), claims, tuple(variants), _cross_entropy(lm, clean, sae), holds, verdict)


def claims_of(sae: Sae) -> dict[str, float]:
    """The numbers that the files claim: l0, fvu, ce_recovered, dead_share, as far as they are there."""
    names = {"l0": "l0", "fvu": "fvu", "ce_recovered": "ce_recovered", "dead_share": "dead_share"}
    data = sae.cfg.metadata
    found = {ours: float(data[key]) for ours, key in names.items() if isinstance(data.get(key), int | float)}
    for key in ("explained_variance", "variance_explained"):
        if isinstance(data.get(key), int | float):
            found.setdefault("fvu", 1 - float(data[key]))
    training = data.get("training")
    asked = training if isinstance(training, dict) else {}
    for k in (sae.cfg.k, asked.get("k"), asked.get("target_l0")):
        if isinstance(k, int):
            found.setdefault("l0", float(k))
    return found


def _measured(change: str, sae: Sae, rows: Float[Tensor, "M D"]) -> Variant:
    quality = reconstruction_of(sae.encode, sae.decode, rows)
    return Variant(change, quality.l0, quality.fvu)


def _other_gates(sae: Sae, rows: Float[Tensor, "M D"], l0: float | None) -> Iterator[tuple[str, Sae]]:
    """The same weights under one changed convention each; none of an SAE that encodes by its own program."""
    if isinstance(sae, GivenSae):
        return
    cfg, weights = sae.cfg, sae.weights()
    kind = type(sae)
    said, other = ("is", "is not") if cfg.subtract_b_dec else ("is not", "is")
    if bool((weights["b_dec"] != 0).any()):
        flipped = kind(cfg.model_copy(update={"subtract_b_dec": not cfg.subtract_b_dec}), weights)
        yield f"b_dec {other} subtracted from the input (declared: it {said})", flipped
    yield "b_dec near the mean of the activations, lost or replaced", kind(cfg, weights | {"b_dec": _offset(sae, rows)})
    if isinstance(sae, NormalisedSae):
        yield "tokens are not normalised", sae.inner()
    elif kind in INNER.values():
        yield "every token is normalised (layer_norm)", normalised(sae, "layer_norm")
    if not isinstance(sae, NormalisedSae | MatchingPursuitSae):  # whose scale is not in the weights alone
        norms = rows.norm(dim=1)
        root_mean_square = norms.square().mean().sqrt()
        scales = {"a mean norm of sqrt(d)": cfg.d_in**0.5 / norms.mean(), "a mean square of one": 1 / root_mean_square}
        for name, scale in scales.items():
            yield f"inputs scaled to {name}", kind(cfg, scaled_in(weights, float(scale)))
    if isinstance(sae, ReluSae | JumpReluSae):
        plain = {n: weights[n] for n in ReluSae.weight_names()}
        pre = sae.pre_activations(rows[:SAMPLE])
        for level in [l0] if l0 else [8.0, 16.0, 32.0, 64.0, 128.0]:
            theta = bound_for(pre, level)
            if theta > 0:
                gated = JumpReluSae(cfg, plain | {"threshold": torch.full((cfg.d_sae,), theta)})
                yield f"a threshold near {theta:.3g} (L0 {level:g}), lost or replaced", gated
        if isinstance(sae, JumpReluSae):
            yield "no threshold", ReluSae(cfg, plain)


def _offset(sae: Sae, rows: Float[Tensor, "M D"]) -> Float[Tensor, "D"]:
    """What b_dec would be about: the mean that is subtracted, or else the mean of what the codes leave over."""
    if sae.cfg.subtract_b_dec:
        return rows.mean(0)
    left = [x - sae.encode(x) @ sae.weights()["W_dec"] for x in rows.split(SAMPLE)]
    return torch.cat(left).mean(0)


def _neighbours(lm: LanguageModel, clean: SitePass, place: Site) -> dict[str, Float[Tensor, "M D"]]:
    """Kept activations one block below and above."""
    layers = [n for n in (place.layer - 1, place.layer + 1) if 0 <= n < lm.n_layers]
    sites = [str(Site(place.kind, n)) for n in layers]
    found = read_states(lm, clean.tokens, sites, batch_size=clean.batch_size)
    return {site: hidden[clean.kept] for site, hidden in found.items()}


def _verdict(variants: list[Variant], claims: dict[str, float]) -> tuple[bool, str]:
    """The declared conventions stand if L0 is the claimed one and no other of as few latents explains clearly more.

    Error alone decides nothing between variants of different L0: more active latents nearly always explain more.
    """
    declared, said = variants[0], claims.get("l0")
    here = f"FVU {declared.fvu:.3f}, L0 {declared.l0:.1f}"
    if said and not _near(declared.l0, said):
        fitting = [r for r in variants[1:] if _near(r.l0, said) and r.fvu < min(1.0, declared.fvu * L0_FACTOR)]
        if fitting:
            meant = min(fitting, key=lambda r: r.fvu)
            return False, f"Wrong as declared ({here}, claimed {said:g}). It fits if: {_shown(meant)}."
    sparse = [r for r in variants[1:] if r.l0 <= max(declared.l0, said or 0.0) * L0_FACTOR]
    best = min(sparse, key=lambda r: r.fvu, default=declared)
    if best.fvu < min(MARGIN * declared.fvu, 1.0):
        return False, f"Wrong as declared ({here}). It fits if: {_shown(best)}."
    if declared.fvu >= 1:
        return False, f"It explains no more than the mean does ({here}): another model, site or file."
    if said and not _near(declared.l0, said):
        return False, f"It explains the activations, but L0 is not the claimed {said:g} ({here})."
    return True, f"Does what it says: {here}; no other convention of as few latents fits clearly better."


def _shown(variant: Variant) -> str:
    return f"{variant.change} (FVU {variant.fvu:.3f}, L0 {variant.l0:.1f})"


def _near(l0: float, said: float) -> bool:
    return said / L0_FACTOR <= l0 <= said * L0_FACTOR


def _cross_entropy(lm: LanguageModel, clean: SitePass, sae: Sae) -> dict[str, float | None]:
    """Cross-entropies in nats per token, and the share recovered against mean and zero ablation."""
    base = baselines_of(lm, clean)
    lost = splice(lm, clean, base, sae.forward)
    return {
        "ce_clean": base.clean,
        "ce_spliced": lost.ce,
        "ce_mean_ablated": base.mean_ablated,
        "ce_recovered": lost.recovered,
        "ce_recovered_zero": lost.recovered_zero,
    }


def as_record(proof: Proof) -> dict[str, Any]:
    """The proof as plain data, for JSON."""
    return {
        "site": proof.site,
        "tokens": proof.tokens,
        "claims": proof.claims,
        "l0": proof.declared.l0,
        "fvu": proof.declared.fvu,
        **proof.ce,
        "readings": [
            {"reading": r.change, "l0": r.l0, "fvu": r.fvu if isfinite(r.fvu) else None} for r in proof.variants
        ],
        "holds": proof.holds,
        "verdict": proof.verdict,
    }
