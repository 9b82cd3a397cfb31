"""What every sparse autoencoder shares: its config, its weights, encode and decode, and the face of a training rule.

    pre = (x - b_dec) W_enc + b_enc        (b_dec left out of it where `subtract_b_dec` is false)
    x̂   = z W_dec + b_dec

Codes are in raw activation units; the comparison with a threshold is strict (`>`). Encoding is done in float32,
whatever x is. An architecture is one file: a training config, a module, and a rule (what its codes are during training
and the gradient of its own loss terms). This file must never know a particular architecture, a file format or an
optimiser.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.names import Look
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.sparse_ops import DenseEntries, SparseEntries, Values


class SaeConfig(Config):
    """What a finished SAE is. `architecture` is the name it was trained under (a BatchTopK encodes as a JumpReLU)."""

    architecture: str
    d_in: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    site: str | None = None
    lm: str | None = None
    k: int | None = Field(default=None, ge=1)
    subtract_b_dec: bool = True
    settings: dict[str, Any] = Field(default_factory=dict)  # what else an encoder needs: normalisation, where it stops
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _k_fits(self) -> "SaeConfig":
        if self.k is not None and self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self


class Sae(nn.Module, ABC):
    """A sparse autoencoder for inference: frozen float32 weights, codes in raw activation units."""

    saelens_name: ClassVar[str]  # the architecture's name in a SAELens folder
    extra: ClassVar[tuple[str, ...]] = ()  # weights beside the four, all [F]

    def __init__(self, cfg: SaeConfig, weights: dict[str, Tensor]):
        super().__init__()
        self.cfg = cfg
        self.W_enc: Float[Tensor, "D F"]
        self.W_dec: Float[Tensor, "F D"]
        self.b_enc: Float[Tensor, " F"]
        self.b_dec: Float[Tensor, " D"]
        shapes = {"W_enc": (cfg.d_in, cfg.d_sae), "W_dec": (cfg.d_sae, cfg.d_in), "b_dec": (cfg.d_in,)}
        for name in self.weight_names():
            tensor = weights[name].detach().to(torch.float32).contiguous()
            expected = shapes.get(name, (cfg.d_sae,))
            if tuple(tensor.shape) != expected:
                raise UserError(f"{name} has shape {tuple(tensor.shape)}, but the config says {expected}.")
            self.register_buffer(name, tensor)

    def __repr__(self) -> str:
        cfg, l0 = self.cfg, self.cfg.metadata.get("l0")
        level = f", k {cfg.k}" if cfg.k else f", L0 {l0:.4g}" if isinstance(l0, int | float) else ""
        where = f"{cfg.site or 'a site unsaid'} of {cfg.lm or 'a model unsaid'}"
        return f"<Sae {cfg.architecture} at {where}: {cfg.d_sae:,} features of width {cfg.d_in}{level}>"

    @classmethod
    def weight_names(cls) -> tuple[str, ...]:
        """Names of all weights."""
        return ("W_enc", "W_dec", "b_enc", "b_dec", *cls.extra)

    @abstractmethod
    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Codes from pre-activations."""

    def pre_activations(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """(x - b_dec) W_enc + b_enc, in float32."""
        if x.shape[-1] != self.cfg.d_in:
            raise UserError(f"The SAE reads vectors of width {self.cfg.d_in}, but got width {x.shape[-1]}.")
        x = x.to(torch.float32)
        return (x - self.b_dec if self.cfg.subtract_b_dec else x) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """Codes z ≥ 0 of activations, in raw activation units."""
        return self.activate(self.pre_activations(x))

    def decode(self, codes: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        """Reconstruction z W_dec + b_dec; of zero codes it is b_dec."""
        return codes.to(torch.float32) @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """decode(encode(x))."""
        return self.decode(self.encode(x))

    def weights(self) -> dict[str, Tensor]:
        """All weights by name, in the shapes of the house convention."""
        return {name: tensor for name, tensor in self.named_buffers()}


@dataclass
class Weights:
    """The weights of an SAE while it is trained: rows are latents, inputs are centred and scaled (x' = (x - m) / s).

    `extra` holds the architecture's own trained vectors [F]; `tracked` what it follows without a gradient. `across`:
    the decoder writes to another site than the encoder reads (a transcoder), so b_dec is no part of what is read.
    """

    encoder: Float[Tensor, "F D"]
    decoder: Float[Tensor, "F E"]
    b_enc: Float[Tensor, " F"]
    b_dec: Float[Tensor, " E"]
    extra: dict[str, Tensor] = field(default_factory=dict)
    tracked: dict[str, Tensor] = field(default_factory=dict)
    across: bool = False

    def to(self, device: torch.device) -> "Weights":
        """The same weights on a device."""
        extra, tracked = ({n: t.to(device) for n, t in own.items()} for own in (self.extra, self.tracked))
        main = (t.to(device) for t in (self.encoder, self.decoder, self.b_enc, self.b_dec))
        return Weights(*main, extra=extra, tracked=tracked, across=self.across)

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        own = {"encoder": self.encoder, "decoder": self.decoder, "b_enc": self.b_enc, "b_dec": self.b_dec}
        return own | self.extra


@dataclass
class RuleGradient:
    """Gradients of the whole loss with respect to the pre-activations' linear part and an architecture's own vectors.

    `linear`: dL/d((x - b_dec) W_enc) on the entries; it is also the gradient of b_enc unless `own` names "b_enc".
    """

    linear: Tensor
    own: dict[str, Tensor] = field(default_factory=dict)
    penalty: float = 0.0


class Rule(ABC):
    """What is particular to an architecture in training. All values are in the units of the scaled inputs."""

    target_l0: int = 0  # above 0 where a sparsity coefficient has to be found for it
    first_coefficient: float = 0.0  # where the search for it starts
    levels: tuple[int, ...] = ()  # sizes of nested parts whose reconstructions are averaged in the loss; empty for one
    finished: ClassVar[type[Sae] | None] = None  # what it makes, which training can then begin with
    scaled: ClassVar[tuple[str, ...]] = ()  # those of its own vectors that are in units of the inputs
    reopens: bool = False  # whether the thresholds of dead latents are set anew

    def initial(self, weights: Weights, sample: Float[Tensor, "B D"]) -> None:
        """Add the architecture's own vectors and set biases; `sample` are scaled inputs."""
        del weights, sample

    def resume(self, weights: Weights, own: dict[str, Tensor]) -> None:
        """Take over the architecture's own vectors of a finished SAE [F], in units of the scaled inputs."""
        weights.extra.update(own)

    def begin(self, progress: float) -> None:
        """Take the settings of a step after this share of the run, where they change with it."""
        del progress

    def level(self, entries: SparseEntries) -> Int[Tensor, " N"]:
        """The smallest of the nested parts that an entry belongs to; by default they are widths of dictionaries."""
        bounds = torch.tensor(self.levels[:-1], dtype=torch.int32).to(entries.columns.device)
        return torch.bucketize(entries.columns, bounds, right=True, out_int32=True)

    def constrain(self, weights: Weights) -> None:
        """Bring the weights back to where the architecture holds them, after each update."""
        del weights

    def constrained(self, grads: dict[str, Tensor], weights: Weights) -> None:
        """Turn the gradients, in place, to those of the parameters behind constrained weights."""
        del grads, weights

    @abstractmethod
    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries | DenseEntries:
        """The entries of some rows that a step computes with: every active one, and those with a gradient.

        A rule that chooses among all rows (`settle`) gives candidates here; a smaller `reach` asks for more of them.
        """

    def settle(self, entries: SparseEntries, n_rows: int, reach: float, ranks: Ranks = ALONE) -> SparseEntries | None:
        """Those of the candidates of all rows that stay, or None where there are too few candidates."""
        del n_rows, reach, ranks
        return entries

    def codes(self, entries: SparseEntries | DenseEntries, weights: Weights) -> Values:
        """The codes on the entries."""
        del weights
        return entries.pre.clamp(min=0)

    def gradient(
        self, entries: SparseEntries | DenseEntries, weights: Weights, d_codes: Values, step: "StepContext"
    ) -> RuleGradient:
        """From dL/dcodes of the reconstruction term to the gradients of the whole loss."""
        del weights, step
        return RuleGradient(d_codes * (entries.pre > 0))

    def track(self, entries: SparseEntries | DenseEntries, weights: Weights, ranks: Ranks = ALONE) -> None:
        """Follow what is followed without a gradient."""
        del entries, weights, ranks

    def heights(self, entries: SparseEntries | DenseEntries, weights: Weights) -> Tensor:
        """How far each entry lies above its threshold (positive: active)."""
        del weights
        return entries.pre

    def shift(self, weights: Weights, amount: float) -> None:
        """Lower (+) or raise (-) every latent's threshold by an amount of pre-activation."""
        raise NotImplementedError

    def held_l0(self, progress: float) -> float | None:
        """The L0 that shifts hold a step on after this share of the run; None: the coefficient leads."""
        del progress

    def reopen(self, weights: Weights, dead: Int[Tensor, " M"], reached: Float[Tensor, " M"]) -> None:
        """Lower the thresholds of dead latents to where pre-activations above `reached` open them (`reopens`)."""
        raise NotImplementedError

    @abstractmethod
    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        """The finished SAE in raw units."""


@dataclass(frozen=True)
class StepContext:
    """What a rule may need beside the entries: what is rebuilt, in scaled units (the inputs, or a transcoder's other
    site), the number of tokens of the batch (on all ranks), the
    sparsity coefficient, what these inputs add to the batch's L0, and the share of the run that is done, in [0, 1).
    """

    x: Float[Tensor, "B D"]
    n: int
    coefficient: float
    l0: float
    progress: float = 0.0


def folded(
    weights: Weights, scale: float, mean: Float[Tensor, " D"], scaled: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Weights in raw units from weights trained on x' = (x - mean) / scale.

    Multiplying by s: pre = (x - m - s b_dec') W_enc + s b_enc', so directions stay, biases and thresholds (the vectors
    named in `scaled`) are multiplied by s and b_dec = m + s b_dec'. Codes come out in raw units.
    """
    raw = {name: tensor * scale if name in scaled else tensor.clone() for name, tensor in weights.extra.items()}
    return raw | {
        "W_enc": weights.encoder.T.contiguous(),
        "W_dec": weights.decoder.clone(),
        "b_enc": weights.b_enc * scale,
        "b_dec": mean + weights.b_dec * scale,
    }


def bound_for(pre: Float[Tensor, "B F"], l0: float) -> float:
    """The value that `l0` entries per row exceed on average (0 if fewer than that are positive). `pre` is reordered."""
    rank = min(pre.numel(), max(1, round(l0 * pre.shape[0])))
    flat = pre.cpu().numpy().reshape(-1)
    flat.partition(-rank)  # in place: torch.topk would hold four times the matrix
    return max(0.0, float(flat[-rank]))


# Controlled architectures start with their thresholds at this multiple of the target L0: every step is then a sparse
# one, and 250 steps give what 350 give from an L0 of half the dictionary (measured on SmolLM2, docs/training.md).
START_L0 = 2.0

# What of an SAE stays as it began, as a control of what training gives (arXiv 2602.14111; training/freeze.py).
Freeze = Literal["none", "decoder", "encoder", "soft", "principal"]

# 2510.03659, section 4 (dictionary_learning's demo settings): spec/study.md 1.
PAPER: dict[str, Any] = {
    "lr": 3e-4, "lr_warmup": 1000.0, "sparsity_warmup": 5000.0, "lr_decay": 0.2, "beta1": 0.9, "fitted_start": False,
}  # fmt: skip


class TrainConfig(Config):
    """What every SAE to be trained says. Warm-ups: below 1 a share of the run, from 1 on a number of steps."""

    architecture: Any  # a Literal with its default in every subclass
    d_in: int = Field(ge=1, description="Width of what it reads.")
    d_sae: int = Field(ge=1, description="Latents.")
    d_out: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda width: width is None,
        description="Width of what it rebuilds, where that is another site (a transcoder).",
    )
    preset: Literal["saelab", "paper"] = Field(default="saelab", description="paper: the settings of its paper.")
    lr: float = Field(default=3e-3, gt=0, description="Learning rate of Adam.")
    bias_lr: float = Field(
        default=1.0,
        ge=0,
        exclude_if=lambda multiple: multiple == 1.0,
        description="Learning rate of b_enc and b_dec as a multiple of lr.",
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="First moment of Adam.")
    lr_warmup: float = Field(default=0.05, ge=0, description="Warm-up of the learning rate: share or steps.")
    lr_decay: float = Field(
        default=0.2, ge=0, le=1, description="Share of the run, its last, over which lr falls to 0."
    )
    sparsity_warmup: float = Field(default=0.1, ge=0, description="Warm-up of the sparsity term: share, or steps.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of a step's gradient; null: not clipped.")
    aux_coefficient: float = Field(default=1 / 32, ge=0, description="Weight of AuxK, which revives dead latents.")
    dead_tokens: int | None = Field(
        default=None, ge=1, description="Silent tokens after which a latent is dead; by default a twentieth of the run."
    )
    fitted_start: bool = Field(default=False, description="Shorten the first encoder if its x̂ overshoots.")
    # Said only where it is on: a config's digest seeds its first weights, and those of the others stay as they are.
    freeze: Freeze = Field(
        default="none",
        exclude_if=lambda part: part == "none",
        description="What stays as it began, as a control: decoder, encoder, soft (decoder rows within a cosine of "
        "0.8), principal (both, the principal directions in signed pairs).",
    )

    paper: ClassVar[dict[str, Any]] = {}
    look: ClassVar[Look]  # how tables and figures show it
    has_threshold: ClassVar[bool] = True  # whether a finished SAE's codes switch on above one of their own
    saebench_name: ClassVar[str | None] = None  # SAEBench's, where it is another

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("preset") == "paper":
            known = {k: v for k, v in (PAPER | cls.paper).items() if k in cls.model_fields}
            return known | data
        return data

    @model_validator(mode="before")
    @classmethod
    def _former_key(cls, data: Any) -> Any:
        if isinstance(data, dict) and "frozen_decoder" in data:
            raise ValueError("`frozen_decoder: true` is now said by `freeze: decoder`")
        return data

    @model_validator(mode="after")
    def _axes_are_of_one_site(self) -> "TrainConfig":
        if self.freeze == "principal" and self.d_out is not None:
            raise ValueError("`freeze: principal` is of SAEs: the principal directions of one site rebuild no other")
        return self

    @property
    def level(self) -> int:
        """The requested L0."""
        raise NotImplementedError

    @property
    def kept(self) -> int | None:
        """The k that the finished SAE encodes with; None where weights alone say what is active."""
        return None

    @abstractmethod
    def rule(self, dtype: torch.dtype) -> Rule:
        """The architecture's training rule; `dtype` is the precision of dense products."""
