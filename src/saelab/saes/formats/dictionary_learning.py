"""saprmarks/dictionary_learning: `ae.pt` (a pickle: opened by `convert` only) and `config.json`, seven classes.

| class | b_dec subtracted | activation function |
|---|---|---|
| AutoEncoder, AutoEncoderNew | yes, no | relu |
| GatedAutoEncoder | yes | gated |
| JumpReluAutoEncoder | no | pre > θ_j |
| AutoEncoderTopK | yes | k largest |
| BatchTopKSAE, MatryoshkaBatchTopKSAE | yes | relu(pre) > θ, one number tracked in training |

Matryoshka is spelled `MatroyshkaBatchTopKSAE` in files of December 2024. Before 22 December 2024 k and threshold were
no tensors: k is the trainer's, and a BatchTopK needs a declared threshold. Where submodule_name is absent, `layer` is
the block whose output was read (`buffer.io` "in": its input).

Codes are in raw units: the training scale c (x / c was trained on) is multiplied into the biases before ae.pt is
written. A run that was interrupted leaves a file of another layout under the same name, {step, ae, optimizer, config,
norm_factor}, with weights that are not scaled yet; it is recognised and scaled.
"""

from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.core.config import Config
from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.core.sites import find_site, house_name
from saelab.saes.architectures.gated import GatedSae
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.formats.conventions import (
    check_widths,
    config_for,
    constant_threshold,
    scaled_in,
    transposed,
    with_bias_convention,
)
from saelab.saes.formats.foreign import Count, Foreign
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
    "MatroyshkaBatchTopKSAE": (_MATRYOSHKA, True, "matryoshka", JumpReluSae),
}
_BUFFERS = frozenset(("k", "threshold"))  # of the last four: tensors since 22 December 2024
# class -> the trainer of that name, by which the loaders of others choose
_TRAINERS = {"AutoEncoder": "StandardTrainer", "GatedAutoEncoder": "GatedSAETrainer"}
_TRAINERS |= {"JumpReluAutoEncoder": "JumpReluTrainer", "AutoEncoderTopK": "TopKTrainer"}
_TRAINERS |= {"BatchTopKSAE": "BatchTopKTrainer"}


class _Trainer(Foreign):
    """What is used of the trainer's settings; all of them are kept as metadata."""

    dict_class: str | None = None
    activation_dim: Count | None = None
    dict_size: Count | None = None
    k: Count | None = None
    layer: int | None = None
    lm_name: str | None = None
    submodule_name: str | None = None


class _Own(Config):
    """What saelab knows and the library has no place for."""

    lm: str | None = None


def _recognises(source: Source) -> bool:
    name = source.file or WEIGHTS
    return name.endswith(".pt") and source.has(name, CONFIG) and "trainer" in source.json(CONFIG)


def _read(source: Source, tensors: dict[str, Tensor], values: dict[str, Any]) -> Sae:
    where = str(source.folder / CONFIG)
    config = source.json(CONFIG)
    trainer = _Trainer.parse(config.get("trainer"), origin=f"trainer in {where}")
    interrupted = any(key.startswith("ae/") for key in tensors)
    if interrupted:
        tensors = {key.removeprefix("ae/"): t for key, t in tensors.items() if key.startswith("ae/")}
    name = trainer.dict_class or _class_by(tensors, where)
    if name not in CLASSES:
        raise UserError(f"{source.name} holds a {name}.", hint=nearest(name, CLASSES))
    names, subtract, architecture, module = CLASSES[name]
    wanted = {ours: theirs for ours, theirs in names.items() if theirs in tensors or theirs not in _buffers(names)}
    found = take(tensors, wanted, f"{source.name} ({name})", optional=("group_sizes",))
    k = _k(source, found.pop("k", None), trainer) if "k" in names else None
    if architecture == "topk" and k is None:
        raise UserError(f"{source.name} does not say its k.", hint="Give k=... (--k).")
    weights = _turned(found, names, source.name)
    if architecture == "topk":
        weights.pop("threshold", None)
    elif "k" in names:
        weights["threshold"] = _threshold(weights, source, name)
    check_widths(source.name, weights, d_in=trainer.activation_dim, d_sae=trainer.dict_size)
    if interrupted:
        weights = scaled_in(weights, _input_scale(source, values))
    own = _Own.parse(config.get("saelab", {}), origin=f"saelab in {where}")
    cfg = config_for(
        weights,
        architecture,
        k=k,
        subtract_b_dec=subtract,
        site=source.declared.site or _site_of(trainer, config.get("buffer")),
        lm=source.declared.lm or own.lm or trainer.lm_name,
        metadata=_metadata(source, config["trainer"], name),
    )
    return module(cfg, weights)


def _class_by(tensors: dict[str, Tensor], where: str) -> str:
    """The class of a file whose config names none, as the first did not; a TopK's tensors do not tell its kind."""
    told = ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder")
    for name in told:
        if set(CLASSES[name][0].values()) == tensors.keys():
            return name
    raise ArtefactError(f"{where} lacks trainer.dict_class.", hint=f"Its tensors are not those of {', '.join(told)}.")


def _k(source: Source, held: Tensor | None, trainer: _Trainer) -> int | None:
    if held is not None and held.numel() != 1:
        raise ArtefactError(f"{source.name} holds a k of {held.numel()} numbers.")
    if held is not None and float(held) != int(held):
        raise ArtefactError(f"{source.name} holds a k of {float(held)}, which is no whole number.")
    return source.declared.settled("k", trainer.k if held is None else int(held))


def _buffers(names: dict[str, str]) -> frozenset[str]:
    """Tensors that files of an older time lack."""
    return _BUFFERS if "k" in names else frozenset()


def _site_of(trainer: _Trainer, buffer: Any) -> str | None:
    """The submodule's site; without a name of it, the block's output, or its input where the buffer kept that."""
    if trainer.submodule_name or trainer.layer is None:
        return house_name(trainer.submodule_name)
    io = buffer.get("io", "out") if isinstance(buffer, dict) else "out"
    kinds = {"out": "resid_post", "in": "resid_pre"}
    return f"{kinds[io]}.{trainer.layer}" if isinstance(io, str) and io in kinds else None


def _turned(weights: dict[str, Tensor], names: dict[str, str], where: str) -> dict[str, Tensor]:
    """From the class's orientation to the house's, W_enc [D, F] and W_dec [F, D], and back."""
    return transposed(weights, where, *(ours for ours in ("W_enc", "W_dec") if names[ours] in _LINEAR.values()))


def _threshold(weights: dict[str, Tensor], source: Source, name: str) -> Tensor:
    """The vector of one number for all latents, which training followed; -1 says that it did not."""
    hint = "Give threshold=... (--threshold), such as the one that lets k latents of a token pass on average."
    threshold = weights.get("threshold")
    followed = threshold is not None and not bool((threshold < 0).any())
    declared = source.declared.settled("threshold", threshold if followed else None)
    threshold = threshold if declared is None else torch.as_tensor(declared)
    if threshold is None:
        raise UserError(
            f"{source.name} holds no threshold: its {name} was saved before the library kept one.", hint=hint
        )
    if bool((threshold < 0).any()):
        raise UserError(
            f"{source.name} has a threshold below zero: its {name} was saved before one was followed.", hint=hint
        )
    d_sae = weights["W_enc"].shape[1]
    if threshold.numel() not in (1, d_sae):
        raise ArtefactError(f"{source.name} has {threshold.numel()} thresholds for {d_sae} latents.")
    return threshold.float().flatten().expand(d_sae).clone()


def _input_scale(source: Source, values: dict[str, Any]) -> float:
    """1 / norm_factor of an interrupted run."""
    factor: Any = values.get("norm_factor")
    stated = 1 / float(factor) if _is_number(factor) and factor > 0 else None
    scale = source.declared.settled("input_scale", stated)
    if scale is None:
        raise UserError(
            f"{source.name} is the file of an interrupted run without a norm_factor: its weights are in unknown units.",
            hint="Give input_scale=1 / sqrt(mean squared norm of the activations), or 1 if they were not normalised.",
        )
    return scale


def _metadata(source: Source, trainer: dict[str, Any], name: str) -> dict[str, Any]:
    """Training settings and, where they were measured, the numbers its evaluation claims."""
    metadata: dict[str, Any] = {"format": "dictionary_learning", "dict_class": name, "training": trainer}
    if source.has("eval_results.json"):
        results = source.json("eval_results.json", strict=False)  # a measure that is not finite is no claim
        theirs = {"l0": "l0", "fvu": "frac_variance_explained", "ce_recovered_zero": "frac_recovered"}
        claims = {ours: results[key] for ours, key in theirs.items() if _is_number(results.get(key))}
        if "fvu" in claims:
            claims["fvu"] = 1 - claims["fvu"]
        metadata |= claims
    return metadata


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _write(sae: Sae, folder: Path) -> None:
    """ae.pt and config.json of the class that encodes alike."""
    name = _class_for(sae)
    names, subtract, _, _ = CLASSES[name]
    moved = with_bias_convention(sae, subtract=subtract)
    weights = _turned(moved.weights(), names, WEIGHTS)
    cfg = sae.cfg
    if "k" in names:
        weights["k"] = torch.tensor(cfg.k or 1, dtype=torch.int32)
        weights["threshold"] = torch.tensor(constant_threshold(sae) if "threshold" in weights else -1.0)
    state = {theirs: weights[ours].clone() for ours, theirs in names.items()}
    with replacing(folder / WEIGHTS) as temporary, temporary.open("wb") as handle:
        torch.save(state, handle)
    write_json(folder / CONFIG, _written_config(cfg, name))


def _written_config(cfg: SaeConfig, name: str) -> dict[str, Any]:
    """The keys by which dictionary_learning, sae-lens and SAEBench choose a class and a place."""
    site = find_site(cfg.site) if cfg.site else None
    trainer: dict[str, Any] = {
        "trainer_class": _TRAINERS[name],
        "dict_class": name,
        "activation_dim": cfg.d_in,
        "dict_size": cfg.d_sae,
        "layer": site.layer if site else None,
        "lm_name": cfg.lm.removeprefix("hf:") if cfg.lm else None,
        "submodule_name": f"{site.kind}_layer_{site.layer}" if site else cfg.site,
    }
    if "k" in CLASSES[name][0]:
        trainer["k"] = cfg.k
    buffer = {"d_submodule": cfg.d_in, "io": "out", "ctx_len": cfg.metadata.get("context_size")}
    return {"trainer": trainer, "buffer": buffer, "saelab": {"lm": cfg.lm}}


def _class_for(sae: Sae) -> str:
    """A Matryoshka SAE is written as BatchTopK: at inference they are the same function. AutoEncoderNew, which
    subtracts nothing, is not written: the loaders of sae-lens and SAEBench do not know it.
    """
    if isinstance(sae, ReluSae):
        return "AutoEncoder"
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
