"""Crosscoders and cross-layer transcoders of llamascopium (OpenMOSS), whose SAEs llama_scope.py reads.

Crosscoder: W_E [S, D, F], b_E [S, F], W_D [S, F, D], b_D [S, D]; the biases of all sites are summed.
CLT: W_E [L, D, F], b_E [L, F], W_D.{t} [t + 1, F, D] (what sets 0 to t write to t), b_D.{t} [D].

Both read s x at a site, with its s = sqrt(D) / average norm, and write s x̂: s goes into encoders, and out of decoders
and output biases, so codes stay the library's. Where codes are decided by pre n (norms n: at its site in a crosscoder,
over all sites in a CLT), a threshold becomes θ / n, and a TopK compares by pre n.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import house_name
from saelab.saes.crosscoder import Crosscoder, crosscoder
from saelab.saes.formats.conventions import exponential
from saelab.saes.formats.foreign import Count, Foreign
from saelab.saes.formats.source import Source, take

NORM = "dataset_average_activation_norm."
_THRESHOLD = "activation_function.log_jumprelu_threshold"
_ACT_FNS = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk", "layertopk": "topk"}


TYPES = ("crosscoder", "clt")


class _Config(Foreign):
    """config.json, as far as an encoder depends on it."""

    sae_type: Literal["crosscoder", "clt"]
    hook_points: list[str] = Field(default=[], min_length=1, description="Both ends of a crosscoder.")
    hook_points_in: list[str] = Field(default=[], min_length=1)
    hook_points_out: list[str] = Field(default=[], min_length=1)
    model_name: str | None = None
    act_fn: str = "relu"
    top_k: Count | None = None
    norm_activation: str = "dataset-wise"
    sparsity_include_decoder_norm: bool = True


def read_sites(source: Source, said: dict[str, Any], found: dict[str, Tensor]) -> Crosscoder:
    """A dictionary of several sites from its config and tensors."""
    config = _Config.parse(said, origin=f"The config of {source.name}")
    kind, act_fn = config.sae_type, config.act_fn.lower()
    hooks_in, hooks_out = (
        (config.hook_points_in, config.hook_points_out) if kind == "clt" else (config.hook_points,) * 2
    )
    if act_fn not in _ACT_FNS or (act_fn == "layertopk" and kind == "crosscoder"):
        raise UserError(
            f"{source.name} has the activation {act_fn!r}; {', '.join(_ACT_FNS)} are read.",
            hint="A batch TopK depends on its batch: turn it into JumpReLU with the library that wrote it.",
        )
    norms = norms_in(found, source)
    tensors = {key: tensor for key, tensor in found.items() if not key.startswith(NORM)}
    names = {"W_E": "W_E", "b_E": "b_E"} | ({"threshold": _THRESHOLD} if act_fn == "jumprelu" else {})
    own = [f"{n}.{t}" for n in ("W_D", "b_D") for t in range(len(hooks_out))] if kind == "clt" else ["W_D", "b_D"]
    tensors = take(tensors, names | {n: n for n in own}, source.name, axes=3)
    _check(tensors, kind, len(hooks_in), len(hooks_out), source)
    s_in, s_out = (_scales(config, hooks, norms, tensors["W_E"].shape[1], source) for hooks in (hooks_in, hooks_out))
    if kind == "clt":
        sets = [[tensors[f"W_D.{t}"][b] for t in range(b, len(hooks_out))] for b in range(len(hooks_in))]
        norm = torch.stack([torch.stack(own).square().sum((0, 2)).sqrt() for own in sets])
        decoders = [{b + i: w / s_out[b + i] for i, w in enumerate(own)} for b, own in enumerate(sets)]
        b_dec = torch.stack([tensors[f"b_D.{t}"] for t in range(len(hooks_out))])
    else:
        norm = tensors["W_D"].norm(dim=-1)
        decoders = [{t: tensors["W_D"][t] / s_out[t]} for t in range(len(hooks_out))]
        b_dec = tensors["b_D"]
    weights = {
        "W_enc": tensors["W_E"] * s_in[:, None, None],
        "b_enc": tensors["b_E"] if kind == "clt" else tensors["b_E"].sum(0),
        "b_dec": b_dec / s_out[:, None],
    }
    by_norm = config.sparsity_include_decoder_norm
    norm = norm if by_norm else torch.ones_like(norm)
    if act_fn == "jumprelu":
        weights["threshold"] = exponential(tensors["threshold"], source.name).expand_as(norm) / norm
    if _ACT_FNS[act_fn] == "topk" and by_norm:
        weights["gain"] = norm
    return crosscoder(
        weights,
        decoders,
        kind="cross_layer" if kind == "clt" else "crosscoder",
        act_fn=_ACT_FNS[act_fn],
        sites=tuple(str(house_name(h)) for h in hooks_in),
        sites_out=tuple(str(house_name(h)) for h in hooks_out),
        k=config.top_k if _ACT_FNS[act_fn] == "topk" else None,
        joint=act_fn == "layertopk",
        lm=source.declared.lm or config.model_name,
        metadata={"format": "llamascopium", "input_scales": s_in.tolist()},
    )


def norms_in(found: dict[str, Tensor], source: Source) -> dict[str, float]:
    """Average norms by hook point."""
    held = {key.removeprefix(NORM): tensor for key, tensor in found.items() if key.startswith(NORM)}
    for hook, tensor in held.items():
        if tensor.numel() != 1:
            raise ArtefactError(f"{source.name} has {tensor.numel()} average norms of {hook}; one was expected.")
    return {hook: float(tensor) for hook, tensor in held.items()}


def _check(tensors: dict[str, Tensor], kind: str, n_in: int, n_out: int, source: Source) -> None:
    """Shapes that do not fit the listed sites are an `ArtefactError`."""
    d, f = tensors["W_E"].shape[1:] if tensors["W_E"].ndim == 3 else (0, 0)
    wanted: dict[str, tuple[int, ...]] = {"W_E": (n_in, d, f), "b_E": (n_in, f)}
    if kind == "clt":
        wanted |= {f"W_D.{t}": (t + 1, f, d) for t in range(n_out)} | {f"b_D.{t}": (d,) for t in range(n_out)}
    else:
        wanted |= {"W_D": (n_out, f, d), "b_D": (n_out, d)}
    if "threshold" in tensors:  # a vector of all sites, or one for each
        wanted["threshold"] = (n_in, f) if tensors["threshold"].ndim == 2 else (f,)
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape or 0 in shape:
            raise ArtefactError(f"{name} of {source.name} is {tuple(tensors[name].shape)}; {n_in} sites need {shape}.")


def _scales(config: _Config, hooks: list[str], norms: dict[str, float], d: int, source: Source) -> Tensor:
    """s of every site, [S]."""
    kind = config.norm_activation
    if kind == "inference":
        return torch.ones(len(hooks))
    if kind != "dataset-wise":
        raise UserError(f"{source.name} normalises activations {kind}, at run time, which no weights can express.")
    missing = [h for h in hooks if not norms.get(h, 0) > 0]
    if missing:
        raise ArtefactError(f"{source.name} lacks the average norm of {', '.join(missing)}.")
    return torch.tensor([d**0.5 / norms[h] for h in hooks])
