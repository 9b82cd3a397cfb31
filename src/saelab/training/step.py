"""One SAE in training: its weights, its optimiser and counters, and what one step does to them.

Gradients come from objective.py; the decoder's component along its own rows is removed, the global norm clipped, Adam
applied, the decoder rows set back to unit norm. `state` and `load` move everything a further step depends on, so a
resumed run continues to the bit. This file must never know files or data sources.
"""

from dataclasses import dataclass
from math import log, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saelab.core.seeds import seed_of
from saelab.saes.across import transcoder_from
from saelab.saes.base import Sae, SaeConfig, TrainConfig, Weights
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.transcoder import Transcoder
from saelab.training.dead import reached, silence
from saelab.training.freeze import FROZEN, place, principal, within
from saelab.training.inputs import Scaling
from saelab.training.objective import BatchResult, fitted_length, gradients
from saelab.training.schedule import learning_rate, ramp
from saelab.training.sparsity import PIN_SHARE, SparsityController

BIASES = ("b_enc", "b_dec")  # whose learning rate `bias_lr` scales
# Silent for this many tokens (at most: a twentieth of the run) makes a latent dead.
DEAD_TOKENS = 10_000_000


@dataclass(frozen=True)
class Figures:
    """What the metrics table and the progress display show of one step."""

    loss: float
    fvu: float
    l0: float
    dead: float
    lr: float
    coefficient: float


class Trainee:
    """One SAE being trained, the same on all ranks; `steps` is the length of the whole run, `sample` a whole batch,
    on the device where it is trained, `start` weights to begin with instead of random ones, `axes` the
    principal directions for `freeze: principal`, those of `sample` where there are none.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        sample: Float[Tensor, "B D"],
        *,
        steps: int,
        seed: int,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
        start: Weights | None = None,
        axes: Float[Tensor, "D D"] | None = None,
    ):
        self.cfg, self.steps, self.dtype, self.ranks = cfg, steps, dtype, ranks
        self.rule = cfg.rule(dtype)
        self.weights = (start or initial_weights(cfg, seed)).to(sample.device)
        if cfg.freeze == "principal":
            place(self.weights, principal(sample) if axes is None else axes)
        if start is None:
            self._begin(*self._parts(sample))
        kept = FROZEN.get(cfg.freeze, ())
        self.parameters = {n: nn.Parameter(t) for n, t in self.weights.trained().items() if n not in kept}
        self.begun = self.weights.decoder.clone() if cfg.freeze == "soft" else None
        # A group of its own per rate: `multiple` is kept in it.
        apart = {n for n in BIASES if cfg.bias_lr != 1.0} & self.parameters.keys()
        groups = [
            {"params": [p for n, p in self.parameters.items() if (n in apart) is own], "multiple": multiple}
            for own, multiple in ((False, 1.0), (True, cfg.bias_lr))
        ]
        filled = [group for group in groups if group["params"]]
        self.adam = torch.optim.Adam(filled, lr=cfg.lr, betas=(cfg.beta1, 0.999), fused=True)
        self.silent = torch.zeros(cfg.d_sae, dtype=torch.int64, device=sample.device)
        self.dead_tokens = cfg.dead_tokens or min(DEAD_TOKENS, max(1, steps * sample.shape[0] // 20))
        target = self.rule.target_l0
        self.controller = SparsityController(target, log(self.rule.first_coefficient)) if target else None
        self.l0: float | None = None
        self.done = 0

    @torch.no_grad()
    def _begin(self, sample: Float[Tensor, "B D"], target: Float[Tensor, "B E"] | None) -> None:
        """Set biases and thresholds; where it is asked for, with a shorter encoder if the first x̂ overshoots.

        A transcoder's decoder rows begin as what goes along with their latents' pre-activations on the sample.
        """
        if target is not None and self.cfg.freeze != "decoder":
            rows = self.weights.encoder @ (sample.T @ target)
            self.weights.decoder = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)
        self.rule.initial(self.weights, sample)
        wanted = self.cfg.fitted_start
        length = fitted_length(self.weights, self.rule, sample, self.dtype, target) if wanted else 1.0
        if length < 1:
            self.weights.encoder *= length
            self.weights.b_enc.zero_()
            self.rule.initial(self.weights, sample)

    def _parts(self, x: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor | None]:
        """What is read and, of a transcoder, what is rebuilt."""
        d = self.cfg.d_in
        return (x, None) if self.cfg.d_out is None else (x[:, :d].contiguous(), x[:, d:].contiguous())

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"]) -> Figures:
        """One optimiser step on scaled inputs, with several ranks on this one's part of them."""
        cfg = self.cfg
        tokens = x.shape[0] * self.ranks.size
        lr = learning_rate(cfg.lr, self.done, self.steps, warmup=cfg.lr_warmup, decay=cfg.lr_decay)
        coefficient = self._coefficient(lr)
        dead = self.dead()
        x, target = self._parts(x)
        grads, outcome = gradients(
            self.weights,
            self.rule,
            x,
            coefficient,
            self.dtype,
            dead=dead,
            aux_coefficient=0.0 if cfg.freeze == "principal" else cfg.aux_coefficient,
            progress=self.done / self.steps,
            target=target,
            ranks=self.ranks,
        )
        self._apply(grads, lr)
        self._pin(outcome, tokens)
        self.silent = silence(self.silent, outcome.fired, tokens)
        self._reopen(x)
        self.l0 = outcome.l0
        self.done += 1
        return Figures(outcome.loss, outcome.fvu, outcome.l0, dead.numel() / cfg.d_sae, lr, coefficient)

    def dead(self) -> Tensor:
        """Indices of the latents silent for too long."""
        return (self.silent >= self.dead_tokens).nonzero().squeeze(1)

    def _coefficient(self, lr: float) -> float:
        if self.controller is None or self.rule.held_l0(self.done / self.steps) is not None:
            return 0.0
        warm = ramp(self.done, self.steps, warmup=self.cfg.sparsity_warmup)
        return self.controller.coefficient(self.l0, lr, warm)

    def _apply(self, grads: dict[str, Tensor], lr: float) -> None:
        grads = {name: grad for name, grad in grads.items() if name in self.parameters}
        decoder = self.parameters.get("decoder")
        if decoder is not None:
            remove_along(grads["decoder"], decoder)
        if self.cfg.clip is not None:
            norm = sqrt(sum(float(torch.linalg.vector_norm(g)) ** 2 for g in grads.values()))
            if norm > self.cfg.clip:
                for g in grads.values():
                    g.mul_(self.cfg.clip / norm)
        for group in self.adam.param_groups:
            group["lr"] = lr * group["multiple"]
        for name, parameter in self.parameters.items():
            parameter.grad = grads[name]
        self.adam.step()
        self.adam.zero_grad()
        if decoder is not None:
            decoder.div_(decoder.norm(dim=1, keepdim=True).clamp(min=1e-8))
            if self.begun is not None:
                decoder.copy_(within(decoder, self.begun))
        if "encoder" in self.parameters:
            self.rule.constrain(self.weights)

    def _pin(self, outcome: BatchResult, tokens: int) -> None:
        held = self.rule.held_l0(self.done / self.steps)
        if self.controller is None or (held is None and self.done < (1 - PIN_SHARE) * self.steps):
            return
        offset = self.controller.offset(outcome.l0, outcome.heights, tokens, self.ranks, target=held)
        self.rule.shift(self.weights, offset)

    def _reopen(self, x: Float[Tensor, "B D"]) -> None:
        if self.rule.reopens and len(dead := self.dead()):
            share = self.rule.target_l0 / self.cfg.d_sae
            self.rule.reopen(self.weights, dead, reached(self.weights, x, dead, share, self.ranks))

    def state(self) -> tuple[dict[str, Tensor], dict[str, float | int | None]]:
        """Everything that a further step depends on: tensors, and plain numbers."""
        tensors = {f"weights.{n}": t for n, t in (self.weights.trained() | self.weights.tracked).items()}
        for name, parameter in self.parameters.items():
            for key, value in self.adam.state[parameter].items():
                tensors[f"adam.{name}.{key}"] = value
        if self.begun is not None:
            tensors["begun"] = self.begun
        numbers = {"done": self.done, "l0": self.l0, "log_c": self.controller.log_c if self.controller else None}
        return tensors | {"silent": self.silent}, numbers

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, float | int | None]) -> None:
        """Take over what `state` gave."""
        for name, tensor in (self.weights.trained() | self.weights.tracked).items():
            tensor.copy_(tensors[f"weights.{name}"])
        for name, parameter in self.parameters.items():
            keys = ("step", "exp_avg", "exp_avg_sq")
            found = {key: tensors[f"adam.{name}.{key}"] for key in keys if f"adam.{name}.{key}" in tensors}
            if found:
                place = parameter.device
                self.adam.state[parameter] = {key: value.to(place, copy=True) for key, value in found.items()}
        if self.begun is not None:
            self.begun.copy_(tensors["begun"])
        self.silent.copy_(tensors["silent"])
        self.done = int(numbers["done"] or 0)
        self.l0 = numbers["l0"]
        if self.controller is not None and numbers["log_c"] is not None:
            self.controller.log_c = float(numbers["log_c"])

    def finish(self, scaling: Scaling, *, site_out: str | None = None, **about: object) -> Sae | Transcoder:
        """The finished SAE or transcoder in raw units, on the CPU; `about` goes to its metadata, `site`, `site_out` and
        `lm` to its config.
        """
        cfg = self.cfg
        about = {"training": cfg.model_dump(mode="json"), "steps": self.done, **about}
        site, lm = about.pop("site", None), about.pop("lm", None)
        final = SaeConfig.parse(
            {
                "architecture": cfg.architecture,
                "d_in": cfg.d_in,
                "d_sae": cfg.d_sae,
                "k": cfg.kept,
                "site": site,
                "lm": lm,
                "metadata": about,
            }
        )
        if (out := scaling.out) is None:
            return self.rule.module(self.weights, scaling.scale, scaling.mean, final).cpu()
        ends = {"read": (scaling.mean, scaling.scale), "written": (out.mean, out.scale)}
        return transcoder_from(self.rule, self.weights, **ends, about=final, site_out=site_out).cpu()


def remove_along(grad: Float[Tensor, "F D"], directions: Float[Tensor, "F D"]) -> None:
    """Take from each row of `grad`, in place, its component along the unit row of `directions`."""
    # A few rows at a time stay in the cache: a quarter of the time of the whole at once.
    for g, d in zip(grad.split(1024), directions.split(1024), strict=True):
        g.addcmul_(d, (g * d).sum(1, keepdim=True), value=-1.0)


def initial_weights(cfg: TrainConfig, seed: int) -> Weights:
    """Unit decoder rows in random directions, the encoder their copy (a transcoder's: directions of its own), biases
    zero (b_dec zero is the data's mean).
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "initial weights", cfg.digest()))
    decoder = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    if cfg.d_out is None:
        return Weights(decoder.clone(), decoder, torch.zeros(cfg.d_sae), torch.zeros(cfg.d_in))
    rows = torch.randn(cfg.d_sae, cfg.d_out, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    return Weights(decoder, rows, torch.zeros(cfg.d_sae), torch.zeros(cfg.d_out), across=True)
