"""Transcoders as SAELens has them, written: `cfg.json`, `sae_weights.safetensors`, for its four transcoder classes.

W_enc [D_in, F], W_dec [F, D_out], b_enc, b_dec; threshold [F] (jumprelu) and W_skip [D_out, D_in] by architecture.
SAELens has no transcoder with a TopK: one is written in the same layout for saelab alone, as `topk_transcoder`, where
a run keeps its own. saelens.py reads them.
"""

from pathlib import Path

from saelab.core.errors import UserError
from saelab.core.sites import hook_name
from saelab.saes.transcoder import Transcoder
from saelab.store.files import write_json
from saelab.store.tensors import write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_PREFIXES = {"relu": "", "jumprelu": "jumprelu_"}


def write_transcoder(found: Transcoder, folder: Path, version: str, *, own: bool = False) -> None:
    """Write one; version: the SAELens version whose layout it is. A TopK is a `UserError` unless `own`."""
    cfg, weights = found.cfg, found.weights()
    if cfg.act_fn not in _PREFIXES and not own:
        raise UserError(
            f"SAELens holds transcoders with a ReLU or JumpReLU; this one has a {cfg.act_fn}.",
            hint="Write it with --to sparsify, which holds TopK.",
        )
    write_tensors(folder / WEIGHTS, weights)
    metadata = {k: v for k, v in cfg.metadata.items() if k != "config"} | {
        "sae_lens_version": version,
        "model_name": cfg.lm,
        "hook_name": hook_name(cfg.site),
        "hook_name_out": hook_name(cfg.site_out),
    }
    prefix = _PREFIXES.get(cfg.act_fn, f"{cfg.act_fn}_")
    data = {
        "architecture": prefix + ("skip_transcoder" if "W_skip" in weights else "transcoder"),
        "d_in": cfg.d_in,
        "d_out": cfg.d_out,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    data |= {"k": cfg.k} if cfg.k is not None else {}
    write_json(folder / CONFIG, data | {"metadata": metadata})
