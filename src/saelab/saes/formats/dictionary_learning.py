"""saprmarks/dictionary_learning: `ae.pt` (a pickle: opened by `convert` only) and `config.json`, seven classes.

| class | b_dec subtracted | gate |
|---|---|---|
| AutoEncoder, AutoEncoderNew | yes, no | relu |
| GatedAutoEncoder | yes | gated |
| JumpReluAutoEncoder | no | pre > θ_j |
| AutoEncoderTopK | yes | k largest |
| BatchTopKSAE, MatryoshkaBatchTopKSAE | yes | relu(pre) > θ, one number tracked in training |

Codes are in raw units: the training scale c (x / c was trained on) is multiplied into the biases before ae.pt is
written. A run that was interrupted leaves a file of another layout under the same name, {step, ae, optimizer, config,
norm_factor}, with weights that are not scaled yet; it is recognised and scaled.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.core.sites import house_name
from saelab.saes.architectures.gated import GatedSae
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import (
    config_for,
    constant_threshold,
    non_negative_threshold,
    oriented,
    scaled_in,
    with_bias_convention,
)
from saelab.saes.formats.source import Format, Source, take
from saelab.store.files import replacing, write_json

CONFIG, WEIGHTS = "config.json", "ae.pt"

_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_PLAIN = {n: n for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
_TOPK = _LINEAR | {"b_dec": "b_dec", "k": "k", "threshold": "threshold"}
_MATRYOSHKA = _PLAIN | {"k": "k", "threshold": "threshold"}
_GATED = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias"}
_GATED |= {"b_enc": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}

# class -> (names of tensors, b_dec subtracted, our architecture, our module)
CLASSES: dict[str, tuple[dict[str, str], bool, str, type[Sae]]] = {
    "AutoEncoder": (_LINEAR | {"b_dec": "bias"}, True, "relu", ReluSae),
    "AutoEncoderNew": (_LINEAR | {"b_dec": "decoder.bias"}, False, "relu", ReluSae),
    "GatedAutoEncoder": (_GATED, True, "gated", GatedSae),
    "JumpReluAutoEncoder": (_PLAIN | {"threshold": "threshold"}, False, "jumprelu", JumpReluSae),
    "AutoEncoderTopK": (_TOPK, True, "topk", TopKSae),
    "BatchTopKSAE": (_TOPK, True, "batchtopk", JumpReluSae),
    "MatryoshkaBatchTopKSAE": (_MATRYOSHKA, True, "matryoshka", JumpReluSae),
}
_ROWS_ARE_LATENTS = ("encoder.weight",)  # nn.Linear keeps [out, in]; W_enc, W_dec are as in the house
_COLUMNS_ARE_LATENTS = ("decoder.weight",)


def _recognises(source: Source) -> bool:
    name = source.file or WEIGHTS
    return name.endswith(".pt") and source.has(name, CONFIG) and "trainer" in source.json(CONFIG)


def _read(source: Source, tensors: dict[str, Tensor], values: dict[str, Any]) -> Sae:
    trainer = source.json(CONFIG).get("trainer")
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise ArtefactError(f"{source.folder / CONFIG} lacks trainer.dict_class.", hint="It says which class to open.")
    name = trainer["dict_class"]
    if name not in CLASSES:
        raise UserError(f"{source.name} holds a {name}.", hint=nearest(str(name), CLASSES))
    interrupted = any(key.startswith("ae/") for key in tensors)
    if interrupted:
        tensors = {key.removeprefix("ae/"): t for key, t in tensors.items() if key.startswith("ae/")}
    names, subtract, architecture, module = CLASSES[name]
    found = take(tensors, names, f"{source.name} ({name})", optional=("group_sizes", "k", "threshold"))
    k = int(found.pop("k")) if "k" in found else trainer.get("k")
    weights = _house_shapes(found, names, trainer)
    if architecture == "topk":
        weights.pop("threshold", None)
    elif "threshold" in weights:
        weights["threshold"] = _threshold(weights, source, name)
    if interrupted:
        weights = scaled_in(weights, _input_scale(source, values))
    cfg = config_for(
        weights,
        architecture,
        k=source.declared.k or k,
        subtract_b_dec=subtract,
        site=source.declared.site or house_name(trainer.get("submodule_name")),
        lm=source.declared.lm or trainer.get("lm_name"),
        metadata=_metadata(source, trainer, name),
    )
    return module(cfg, weights)


def _house_shapes(found: dict[str, Tensor], names: dict[str, str], trainer: dict[str, Any]) -> dict[str, Tensor]:
    """W_enc [D, F], W_dec [F, D]; the class declares the orientation, the config's widths must agree."""
    weights = dict(found)
    if names["W_enc"] in _ROWS_ARE_LATENTS:
        weights["W_enc"] = weights["W_enc"].T.contiguous()
    if names["W_dec"] in _COLUMNS_ARE_LATENTS:
        weights["W_dec"] = weights["W_dec"].T.contiguous()
    d_in, d_sae = weights["W_enc"].shape
    said = (trainer.get("activation_dim", d_in), trainer.get("dict_size", d_sae))
    if said != (d_in, d_sae):
        raise ArtefactError(f"config.json says {said[0]} by {said[1]}; the weights are {d_in} by {d_sae}.")
    weights["W_dec"] = oriented(weights["W_dec"], d_sae, d_in, "W_dec", declared=True)
    return weights


def _threshold(weights: dict[str, Tensor], source: Source, name: str) -> Tensor:
    """The vector of thresholds; one number stands for all. -1 says that it was never tracked."""
    threshold = weights["threshold"]
    if source.declared.threshold is not None:
        threshold = torch.tensor(source.declared.threshold)
    threshold = non_negative_threshold(
        threshold, source.name, f"the {name} was saved before its threshold was followed, or trained without."
    )
    return threshold.float().expand(weights["W_enc"].shape[1]).clone()


def _input_scale(source: Source, values: dict[str, Any]) -> float:
    """1 / norm_factor of an interrupted run."""
    if source.declared.input_scale is not None:
        return source.declared.input_scale
    factor = values.get("norm_factor")
    if not isinstance(factor, int | float) or factor <= 0:
        raise UserError(
            f"{source.name} is the file of an interrupted run without a norm_factor: its weights are in unknown units.",
            hint="Give input_scale=1 / sqrt(mean squared norm of the activations), or 1 if they were not normalised.",
        )
    return 1 / float(factor)


def _metadata(source: Source, trainer: dict[str, Any], name: str) -> dict[str, Any]:
    """Training settings and, where they were measured, the numbers its evaluation claims."""
    metadata: dict[str, Any] = {"format": "dictionary_learning", "dict_class": name, "training": trainer}
    if source.has("eval_results.json"):
        results = source.json("eval_results.json")
        theirs = {"l0": "l0", "fvu": "frac_variance_explained", "ce_recovered_zero": "frac_recovered"}
        claims = {ours: results[key] for ours, key in theirs.items() if isinstance(results.get(key), int | float)}
        if "fvu" in claims:
            claims["fvu"] = 1 - claims["fvu"]
        metadata |= claims
    return metadata


def _write(sae: Sae, folder: Path) -> None:
    """ae.pt and config.json of the class that encodes alike."""
    name = _class_for(sae)
    names, subtract, _, _ = CLASSES[name]
    moved = with_bias_convention(sae, subtract=subtract)
    weights = moved.weights()
    if names["W_enc"] in _ROWS_ARE_LATENTS:
        weights["W_enc"] = weights["W_enc"].T.contiguous()
    if names["W_dec"] in _COLUMNS_ARE_LATENTS:
        weights["W_dec"] = weights["W_dec"].T.contiguous()
    cfg = sae.cfg
    if "k" in names:
        weights["k"] = torch.tensor(cfg.k or 1, dtype=torch.int32)
        weights["threshold"] = torch.tensor(constant_threshold(sae) if "threshold" in weights else -1.0)
    state = {theirs: weights[ours].clone() for ours, theirs in names.items()}
    trainer: dict[str, Any] = {
        "trainer_class": "saelab",
        "dict_class": name,
        "activation_dim": cfg.d_in,
        "dict_size": cfg.d_sae,
        "lm_name": cfg.lm,
        "submodule_name": "_layer_".join(cfg.site.rsplit(".", 1)) if cfg.site else None,
    }
    if "k" in names:
        trainer["k"] = cfg.k
    with replacing(folder / WEIGHTS) as temporary, temporary.open("wb") as handle:
        torch.save(state, handle)
    write_json(folder / CONFIG, {"trainer": trainer, "buffer": {}})


def _class_for(sae: Sae) -> str:
    """A Matryoshka SAE is written as BatchTopK: at inference they are the same function."""
    if isinstance(sae, ReluSae):
        return "AutoEncoder" if sae.cfg.subtract_b_dec else "AutoEncoderNew"
    if isinstance(sae, GatedSae):
        return "GatedAutoEncoder"
    if isinstance(sae, TopKSae):
        return "AutoEncoderTopK"
    if not isinstance(sae, JumpReluSae):
        raise UserError(
            f"dictionary_learning holds no class that encodes as {sae.saelens_name}.",
            hint="Write it with --to saelens.",
        )
    tracked = sae.cfg.architecture in ("batchtopk", "matryoshka") and sae.cfg.k is not None
    return "BatchTopKSAE" if tracked and constant_threshold(sae) is not None else "JumpReluAutoEncoder"


FORMAT = Format(
    "dictionary_learning",
    f"{CONFIG} with {WEIGHTS}",
    _recognises,
    _read,
    _write,
    pickle=lambda source: source.file or WEIGHTS,
)
