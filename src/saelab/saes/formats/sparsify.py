"""EleutherAI sparsify: `cfg.json` and `sae.safetensors`, TopK.

    z = top_k(relu((x - b_dec) W_enc + b_enc)),   x̂ = z W_dec + b_dec

encoder.weight [F, D], encoder.bias [F], W_dec [F, D] (sic: not transposed), b_dec [D]; older files have decoder.weight
[D, F] and a flag `signed`: signed codes become twice as many non-negative ones. A hook point `layers.L` is the output
of block L, that is `resid_post.L`, while `hidden_states[L]` is the stream before it. A transcoder subtracts nothing
from its input and may have W_skip [D, D]. GroupMax is refused.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import find_site
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import config_for, matrix, oriented, signs_split, with_bias_convention
from saelab.saes.formats.source import Format, Source, known_keys, take
from saelab.saes.transcoder import Transcoder, transcoder
from saelab.store.files import write_json
from saelab.store.tensors import write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_KNOWN = frozenset(
    [
        "activation",
        "expansion_factor",
        "normalize_decoder",
        "num_latents",
        "k",
        "multi_topk",
        "skip_connection",
        "transcode",
        "d_in",
        "signed",
    ]
)


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _read(source: Source) -> Sae | Transcoder:
    config = source.json(CONFIG)
    known_keys(config, _KNOWN, str(source.folder / CONFIG))
    if config.get("activation", "topk") != "topk":
        raise UserError(f"{source.name} has the activation {config['activation']!r}; topk is read.")
    if config.get("skip_connection") and not config.get("transcode"):
        raise UserError(
            f"{source.name} passes its input on through a skip connection, so its codes explain it in part."
        )
    k = source.declared.k or config.get("k")
    if not isinstance(k, int) or k < 1:
        raise ArtefactError(f"{source.folder / CONFIG} lacks k.", hint="Declare it: k=...")
    weights = _weights(source)
    d_in = config.get("d_in")
    if d_in is not None and d_in != weights["W_enc"].shape[0]:
        raise ArtefactError(
            f"{source.folder / CONFIG} says d_in = {d_in}; the weights say {weights['W_enc'].shape[0]}."
        )
    site = source.declared.site or _site_from(source)
    lm = source.declared.lm
    metadata = {"format": "sparsify", "config": config}
    if config.get("transcode"):
        return transcoder(weights, gate="topk", k=k, site=site, lm=lm, metadata=metadata)  # b_dec is the output's
    if config.get("signed"):
        weights = signs_split(weights)
    return TopKSae(config_for(weights, "topk", k=k, site=site, lm=lm, metadata=metadata), weights)


def _weights(source: Source) -> dict[str, Tensor]:
    found = source.safetensors(WEIGHTS)
    where = str(source.folder / WEIGHTS)
    decoder = "W_dec" if "W_dec" in found else "decoder.weight"
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": decoder, "b_dec": "b_dec"}
    names |= {"W_skip": "W_skip"} if "W_skip" in found else {}
    weights = take(found, names, where)
    rows, columns = matrix(weights, "W_enc", where).shape
    # The format fixes both orientations: encoder.weight and W_dec have a row per latent, decoder.weight a column.
    weights["W_enc"] = weights["W_enc"].T.contiguous()
    if decoder == "decoder.weight":
        weights["W_dec"] = oriented(weights["W_dec"], columns, rows, decoder, declared=True).T.contiguous()
    return weights


def _site_from(source: Source) -> str | None:
    """The hook point is the folder's path: `.../layers.10`."""
    last = source.name.replace(":", "/").rstrip("/").rsplit("/", 1)[-1]
    site = find_site(last)
    return str(site) if site else None


def _write(sae: Sae, folder: Path) -> None:
    if not isinstance(sae, TopKSae):
        raise UserError(
            f"sparsify holds TopK SAEs; this one encodes as {sae.saelens_name}.",
            hint="Write it with --to saelens, which holds every architecture.",
        )
    weights = with_bias_convention(sae, subtract=True).weights()
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    tensors = {theirs: weights[ours] for ours, theirs in names.items()}
    tensors["encoder.weight"] = weights["W_enc"].T
    write_tensors(folder / WEIGHTS, tensors)
    cfg = sae.cfg
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": 32,  # not used beside num_latents
        "normalize_decoder": True,
        "num_latents": cfg.d_sae,
        "k": cfg.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": cfg.d_in,
    }
    write_json(folder / CONFIG, config)


FORMAT = Format("sparsify", f"{CONFIG} with {WEIGHTS}", _recognises, _read, _write)
