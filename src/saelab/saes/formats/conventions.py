"""The algebra between formats: every rewriting here leaves codes and reconstruction what they were.

    b_dec in or out of the input:   (x - b_dec) W_enc + b = x W_enc + (b - b_dec W_enc)
    inputs scaled by s:             f(s x) / s with f's weights is W_enc, W_dec, b_enc / s, b_dec / s, θ / s, codes / s
    inputs whitened, (x - μ) M:     W_enc is M W_enc, W_dec is W_dec M⁻¹, b_dec is b_dec M⁻¹ + μ
    TopK by decoder norms n:        top_k(n pre) with W_dec / n is W_enc n, b_enc n, W_dec / n
    codes with a sign:              top_k(|pre|) is top_k of [pre, -pre] with [W_dec, -W_dec]

No file is read here and no format is known.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.saes.architectures.gated import GatedSae
from saelab.saes.architectures.matching_pursuit import MatchingPursuitSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.formats.source import finite

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Width of the activations and of the dictionary."""

    d_in: int
    d_sae: int


def oriented(tensor: Tensor, rows: int, columns: int, name: str, *, declared: bool = False) -> Tensor:
    """The matrix as [rows, columns], transposed if its shape says so.

    Where rows = columns the shape says nothing: it is refused unless the format declares that it is as it should be.
    """
    if tuple(tensor.shape) == (rows, columns) and (declared or rows != columns):
        return tensor
    if rows == columns and tuple(tensor.shape) == (rows, columns):
        raise UserError(
            f"{name} is square ({rows} by {columns}) and the format does not fix its orientation.",
            hint="Save it in a format that does, such as SAELens, with the library that wrote it.",
        )
    if tuple(tensor.shape) == (columns, rows):
        return tensor.T.contiguous()
    raise ArtefactError(f"{name} has shape {tuple(tensor.shape)}; {(rows, columns)} was expected.")


def matrix(tensors: Tensors, name: str, where: str) -> Tensor:
    """A tensor that must be a matrix."""
    if name not in tensors or tensors[name].ndim != 2:
        shape = tuple(tensors[name].shape) if name in tensors else "missing"
        raise ArtefactError(f"{where} should hold the matrix {name}, but it is {shape}.")
    return tensors[name]


def transposed(weights: Tensors, where: str, *names: str) -> Tensors:
    """The weights with these matrices transposed."""
    return weights | {name: matrix(weights, name, where).T.contiguous() for name in names}


def scaled_in(weights: Tensors, scale: float, thresholds: tuple[str, ...] = ("threshold",)) -> Tensors:
    """Weights that read x, from weights that read scale * x and reconstruct scale * x; codes come out / scale.

    Multiplying pre by 1/scale: directions stay, biases and thresholds are divided. r_mag is a gain and stays.
    """
    divided = {"b_enc", "b_dec", "b_mag", *thresholds}
    return {n: t / scale if n in divided else t for n, t in weights.items()}


def whitened_in(weights: Tensors, mean: Tensor, matrix: Tensor, inverse_matrix: Tensor, *, subtract: bool) -> Tensors:
    """Weights that read x, from weights that read (x - mean) M and reconstruct that."""
    wide = {n: t.double() for n, t in weights.items()}
    encoder = matrix.double() @ wide["W_enc"]
    new = {
        "W_enc": encoder,
        "W_dec": wide["W_dec"] @ inverse_matrix.double(),
        "b_dec": wide["b_dec"] @ inverse_matrix.double() + mean.double(),
    }
    if not subtract:  # b_dec, which now holds the mean, does not take it from the input
        new["b_enc"] = wide["b_enc"] - mean.double() @ encoder
        if "b_mag" in wide:
            new["b_mag"] = wide["b_mag"] - (mean.double() @ encoder) * wide["r_mag"].exp()
    return weights | {n: t.float() for n, t in new.items()}


def decoder_norms_folded(weights: Tensors) -> Tensors:
    """Weights whose codes are n_j pre_j and whose decoder rows have unit norm."""
    norms = weights["W_dec"].norm(dim=1)
    if bool((norms == 0).any()):
        raise ArtefactError(f"{int((norms == 0).sum())} decoder rows are zero, so their norms cannot be folded.")
    return weights | {
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
        "W_dec": weights["W_dec"] / norms[:, None],
    }


def signs_split(weights: Tensors) -> Tensors:
    """TopK weights with non-negative codes, from those whose k codes of largest |pre| keep their sign.

    Latent j becomes j (its positive part) and F + j (its negative part, with the opposite direction): one of the two
    is always zero, so the k largest of the 2F are the k of largest magnitude, and the reconstruction is the same.
    """
    return weights | {
        "W_enc": torch.cat([weights["W_enc"], -weights["W_enc"]], dim=1),
        "b_enc": torch.cat([weights["b_enc"], -weights["b_enc"]]),
        "W_dec": torch.cat([weights["W_dec"], -weights["W_dec"]]),
    }


def with_bias_convention(sae: Sae, *, subtract: bool) -> Sae:
    """The same function with b_dec subtracted from the input, or not."""
    if sae.cfg.subtract_b_dec == subtract:
        return sae
    if isinstance(sae, MatchingPursuitSae):
        raise UserError("A matching pursuit is of x - b_dec or of x: one cannot be rewritten as the other.")
    weights = sae.weights()
    shift = weights["b_dec"].double() @ weights["W_enc"].double() * (1 if subtract else -1)
    weights["b_enc"] = (weights["b_enc"].double() + shift).float()
    if isinstance(sae, GatedSae):  # its magnitude path reads (x - b_dec) W_enc without b_enc
        weights["b_mag"] = (weights["b_mag"].double() + shift * weights["r_mag"].double().exp()).float()
    return type(sae)(sae.cfg.model_copy(update={"subtract_b_dec": subtract}), weights)


def constant_threshold(sae: Sae) -> float | None:
    """The one threshold that all latents share, or None."""
    threshold = sae.weights().get("threshold")
    if threshold is None or bool((threshold != threshold[0]).any()):
        return None
    return float(threshold[0])


def shape_of(weights: Tensors) -> Shape:
    """Widths from W_enc [D, F]."""
    return Shape(*matrix(weights, "W_enc", "The SAE").shape)


def check_shapes(where: str, weights: Tensors, *, transcodes: bool = False) -> None:
    """Refuse weights that do not fit together, before anything is computed with them: a short vector would broadcast.

    W_enc [D, F] asks for W_dec [F, D], b_dec [D] and vectors [F]; transcodes: W_dec is [F, D_out], b_dec [D_out] and
    W_skip [D_out, D].
    """
    d_in, d_sae = matrix(weights, "W_enc", where).shape
    d_out = matrix(weights, "W_dec", where).shape[1] if transcodes else d_in
    wanted = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for name, tensor in weights.items():
        shape = wanted.get(name, (d_sae,))
        if tuple(tensor.shape) != shape or 0 in shape:
            raise ArtefactError(
                f"{name} has shape {tuple(tensor.shape)} in {where}; W_enc of {(d_in, d_sae)} asks for {shape}."
            )


def exponential(log: Tensor, where: str) -> Tensor:
    """Thresholds from their logarithms; one that is not finite is an `ArtefactError`."""
    threshold = log.exp()
    if not finite(threshold):
        raise ArtefactError(f"{where} holds thresholds that are not finite.")
    return threshold


def check_widths(where: str, weights: Tensors, *, transcodes: bool = False, **said: int | None) -> None:
    """Refuse weights that do not fit together, and a config whose d_in, d_sae or d_out is not theirs; what it does not
    say is None.
    """
    check_shapes(where, weights, transcodes=transcodes)
    d_in, d_sae = weights["W_enc"].shape
    held = {"d_in": d_in, "d_sae": d_sae, "d_out": weights["W_dec"].shape[1]}
    wrong = [f"{name} = {value}" for name, value in said.items() if value is not None and value != held[name]]
    if wrong:
        inside = ", ".join(f"{name} = {held[name]}" for name in said)
        raise ArtefactError(f"{where} says {', '.join(wrong)} in its config; its weights have {inside}.")


def config_for(weights: Tensors, architecture: str, **fields: object) -> SaeConfig:
    """A config with the widths of the weights."""
    shape = shape_of(weights)
    return SaeConfig.parse({"architecture": architecture, "d_in": shape.d_in, "d_sae": shape.d_sae} | fields)


def unit_of_codes(sae: Sae) -> str:
    """The unit of an SAE's codes, as far as its files tell (docs/formats.md, "Units").

    saelab trains in raw activations, and the other formats are read so; a SAELens file may have a training scale in its
    weights, and plain tensors whatever their owner did.
    """
    said = sae.cfg.metadata
    if isinstance(said.get("training"), dict) or said.get("format", "tensors") != "tensors":
        return "raw activations"
    return "that of its file: raw activations unless a training scale is in its weights"
