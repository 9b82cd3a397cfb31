"""Gemma Scope 1 (Lieberum et al. 2024, arXiv 2408.05147): one `params.npz` per SAE, JumpReLU.

    pre = x W_enc + b_enc  (b_dec is NOT subtracted),   z = pre 1[pre > θ],   x̂ = z W_dec + b_dec

Keys W_enc [D, F], W_dec [F, D], threshold [F], b_enc [F], b_dec [D]. No config: layer, kind and the L0 that the card
claims are in the path (`gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`). SAEs of the embedding read
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
from saelab.saes.formats.source import Format, Source, integer_after, take
from saelab.saes.transcoder import Transcoder, transcoder
from saelab.store.files import replacing

FILE = "params.npz"
_NAMES = {n: n for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_REPOSITORY = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<tuning>pt|it)-(?P<kind>res|mlp|att|transcoders)")
_SITES = {"res": "resid_post", "mlp": "mlp_out"}


def _recognises(source: Source) -> bool:
    return source.has(FILE)


def _read(source: Source) -> Sae | Transcoder:
    weights = take(source.npz(FILE), _NAMES, str(source.folder / FILE))
    name = f"{source.name}/{source.folder}"
    if "transcoders" in name:
        layer, about = integer_after(name, r"layer_(\d+)"), _about(name, embedding=False)
        about["site"] = (
            f"blocks.{layer}.ln2.hook_normalized"  # the MLP's input: after its norm, without the norm's gain
        )
        return transcoder(weights, gate="jumprelu", site_out=f"mlp_out.{layer}", **about)
    embedding = "/embedding/" in name
    if embedding:
        root = weights["W_enc"].shape[0] ** 0.5
        weights |= {"W_enc": weights["W_enc"] / root, "W_dec": weights["W_dec"] * root}
    about = _about(name, embedding)
    about |= {k: v for k, v in (("site", source.declared.site), ("lm", source.declared.lm)) if v}
    return JumpReluSae(config_for(weights, "jumprelu", subtract_b_dec=False, **about), weights)


def _about(name: str, embedding: bool) -> dict[str, Any]:
    """Site, LM and claims, as far as the path says them."""
    found = _REPOSITORY.search(name)
    layer, l0 = integer_after(name, r"layer_(\d+)"), integer_after(name, r"average_l0_(\d+)")
    kind = found["kind"] if found else None
    site = None
    if kind in _SITES and layer is not None and not embedding:
        site = f"{_SITES[kind]}.{layer}"
    elif kind == "att" and layer is not None:
        site = f"blocks.{layer}.attn.hook_z"  # the heads' outputs side by side, before W_O
    lm = None
    if found:
        lm = f"hf:google/gemma-2-{found['size']}" + ("-it" if found["tuning"] == "it" else "")
    metadata: dict[str, Any] = {"format": "gemma_scope"}
    if l0 is not None:
        metadata["l0"] = l0
    if embedding:
        metadata["embedding"] = True
    return {"site": site, "lm": lm, "metadata": metadata}


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
