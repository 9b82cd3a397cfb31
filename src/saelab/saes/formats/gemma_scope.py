"""Gemma Scope 1 (Lieberum et al. 2024, arXiv 2408.05147): one `params.npz` per SAE, JumpReLU.

    pre = x W_enc + b_enc  (b_dec is NOT subtracted),   z = pre 1[pre > θ],   x̂ = z W_dec + b_dec

Keys W_enc [D, F], W_dec [F, D], threshold [F], b_enc [F], b_dec [D]. No config: layer, kind and the L0 that the card
claims are in the path from the repository's name on (`gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`);
a file without that name in its path is read as an SAE of an unknown site. SAEs of the embedding read
embeddings divided by sqrt(D). The numbers are in raw units: the training scale was folded in before release.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from saelab.core.errors import UserError
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import config_for, with_bias_convention
from saelab.saes.formats.places import placed
from saelab.saes.formats.source import Format, Source, take
from saelab.saes.transcoder import Transcoder, transcoder
from saelab.store.files import replacing

FILE = "params.npz"
_NAMES = {n: n for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_REPOSITORY = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<tuning>pt|it)-(?P<kind>res|mlp|att|transcoders)")
_LAYOUT = re.compile(r"(?:layer_(?P<layer>\d+)|embedding)/width_\w+/average_l0_(?P<l0>\d+)")
UNPLACED = "it is not gemma-scope-SIZE-TUNING-KIND/layer_L/width_W/average_l0_N, so it is read as an SAE"
_SITES = {"res": "resid_post.{}", "mlp": "mlp_out.{}"}
_SITES["att"] = "blocks.{}.attn.hook_z"  # the heads' outputs side by side, before W_O
_SITES["transcoders"] = "blocks.{}.ln2.hook_normalized"  # the MLP's input: after its norm, without the norm's gain


def _recognises(source: Source) -> bool:
    return source.has(FILE)


def _read(source: Source) -> Sae | Transcoder:
    weights = take(source.npz(FILE), _NAMES, str(source.folder / FILE))
    about, kind = _about(source)
    if kind == "transcoders":
        return transcoder(weights, act_fn="jumprelu", **about)
    if kind == "embedding":
        root = weights["W_enc"].shape[0] ** 0.5
        weights |= {"W_enc": weights["W_enc"] / root, "W_dec": weights["W_dec"] * root}
    return JumpReluSae(config_for(weights, "jumprelu", subtract_b_dec=False, **about), weights)


def _about(source: Source) -> tuple[dict[str, Any], str | None]:
    """Site, LM and claims as far as the path says them; and the kind: one of _SITES, "embedding" or None."""
    place, declared = placed(source, _REPOSITORY), source.declared
    found = _LAYOUT.fullmatch(place.inside) if place else None
    if place is None or found is None:
        notice = f"its path says neither kind nor site: {UNPLACED}"
        return {"site": declared.site, "lm": declared.lm, "metadata": {"format": "gemma_scope", "notice": notice}}, None
    name, layer = place.repository, found["layer"]
    kind = name["kind"] if layer else "embedding"
    lm = f"hf:google/gemma-2-{name['size']}" + ("-it" if name["tuning"] == "it" else "")
    metadata: dict[str, Any] = {"format": "gemma_scope", "l0": int(found["l0"])}
    metadata |= {"embedding": True} if kind == "embedding" else {}
    site = declared.site or (_SITES[kind].format(layer) if layer else None)
    about = {"site": site, "lm": declared.lm or lm, "metadata": metadata}
    return about | ({"site_out": f"mlp_out.{layer}"} if kind == "transcoders" else {}), kind


def _write(sae: Sae, folder: Path) -> None:
    """A JumpReLU SAE, or a ReLU one with thresholds of zero; others have no place in this format."""
    if not isinstance(sae, JumpReluSae | ReluSae):
        raise UserError(
            f"Gemma Scope holds JumpReLU SAEs; this one encodes as {sae.saelens_name}.",
            hint="Write it with --to saelens, which holds every architecture.",
        )
    weights = with_bias_convention(sae, subtract=False).weights()
    arrays = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
    arrays.setdefault("threshold", np.zeros(sae.cfg.d_sae, dtype=np.float32))
    with replacing(folder / FILE) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)  # pyright: ignore[reportArgumentType]  (its stub reads ** as allow_pickle)


FORMAT = Format("gemma_scope", FILE, _recognises, _read, _write)
