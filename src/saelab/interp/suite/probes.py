"""Linear probes, and which coordinates of a representation carry a concept.

    logit(x) = <w, x> + b,   positive where logit > 0

Two fits: `fit_logistic` (L2-regularised logistic regression, scikit-learn, C = 1) for few coordinates, and `fit_probe`
(AdamW on minibatches, as SAEBench's and SHIFT's probes are trained) for whole representations; how long and in what
batches the second is trained decides how much of a spurious correlation it learns, so those settings are part of the
measure. Randomness comes from the names given; nothing here knows SAEs or texts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.classifiers import logistic
from saelab.core.config import Config
from saelab.core.seeds import seed_of


class ProbeConfig(Config):
    """How a minibatch probe is trained; the defaults are those of SAEBench's sparse probing (0.6.0)."""

    lr: float = 1e-2
    batch_size: int = 250
    epochs: int = 100
    patience: int = 10
    l1: float = 0.0
    weight_decay: float = 0.01


# Of SCR and TPP, from SHIFT (2403.19647): the batch size sets how much bias the probe takes up.
SHIFT_PROBE = ProbeConfig(lr=1e-3, batch_size=16, epochs=20, patience=20, l1=1e-3)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: `weight` [D], `bias`."""

    weight: Float[Tensor, " D"]
    bias: float

    def predict(self, x: Float[Tensor, "N D"]) -> Bool[Tensor, " N"]:
        """Which rows are positive."""
        return x.float() @ self.weight + self.bias > 0

    def accuracy(self, x: Float[Tensor, "N D"], y: Bool[Tensor, " N"]) -> float:
        """Share of rows classified right."""
        return float((self.predict(x) == y).float().mean())

    def tested(self, x: Float[Tensor, "N D"], split: "Split") -> float:
        """Share of a split's test rows classified right."""
        return self.accuracy(x[split.test].cpu(), torch.from_numpy(split.test_y))


@dataclass(frozen=True)
class Split:
    """Train and test rows of one binary task: row numbers into a representation, and labels."""

    train: Int[np.ndarray, " N"]
    train_y: Bool[np.ndarray, " N"]
    test: Int[np.ndarray, " M"]
    test_y: Bool[np.ndarray, " M"]


def fit_probe(x: Float[Tensor, "N D"], split: Split, config: ProbeConfig, *names: str | int) -> LinearProbe:
    """Train on minibatches, keeping the weights of the epoch with the best *test* accuracy.

    That choice is upstream's and makes a full probe's accuracy slightly optimistic; it is kept for comparability.
    names: what the probe is, for its random stream.
    """
    generator = torch.Generator().manual_seed(seed_of("probe", *names))
    train, train_y = x[split.train].float().cpu(), torch.from_numpy(split.train_y).float()
    test, test_y = x[split.test].float().cpu(), torch.from_numpy(split.test_y)
    d = x.shape[1]
    bound = 1 / d**0.5
    weight = ((torch.rand(d, generator=generator) * 2 - 1) * bound).requires_grad_()
    bias = ((torch.rand(1, generator=generator) * 2 - 1) * bound).requires_grad_()
    optimiser = torch.optim.AdamW([weight, bias], lr=config.lr, weight_decay=config.weight_decay)
    best, best_accuracy, waited = LinearProbe(weight.detach().clone(), float(bias.detach())), -1.0, 0
    for _ in range(config.epochs):
        for rows in torch.randperm(len(train), generator=generator).split(config.batch_size):
            logits = train[rows] @ weight + bias
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, train_y[rows])
            if config.l1:
                loss = loss + config.l1 * weight.abs().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        probe = LinearProbe(weight.detach().clone(), float(bias.detach()))
        if (accuracy := probe.accuracy(test, test_y)) > best_accuracy:
            best, best_accuracy, waited = probe, accuracy, 0
        elif (waited := waited + 1) >= config.patience:
            break
    return best


def fit_logistic(x: Float[Tensor, "N D"], y: Bool[np.ndarray, " N"], *, balanced: bool = False) -> LinearProbe:
    """L2-regularised logistic regression (C = 1). balanced: classes weigh the same."""
    model = logistic(x.float().cpu().numpy(), y, class_weight="balanced" if balanced else None)
    return LinearProbe(torch.from_numpy(model.coef_[0]).float(), float(model.intercept_[0]))


@dataclass(frozen=True)
class Probes:
    """Several one-against-rest probes trained together: `weight` [C, D], `bias` [C]."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]

    def scores(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Logits; positive means yes."""
        return x.float() @ self.weight.T + self.bias


def fit_together(
    x: Float[Tensor, "N D"],
    y: Bool[Tensor, "N C"],
    *names: str | int,
    batch_size: int = 64,
    epochs: int = 50,
    l1: float = 0.0,
    weight_decay: float = 1e-4,
) -> Probes:
    """C probes at once: BCE with the rare class weighted up, Adam from 0.01 to 1e-5 (exponential, per epoch).

    As SAEBench's absorption trains its probes. A class without positives keeps a probe that says no.
    """
    generator = torch.Generator().manual_seed(seed_of("together", *names))
    x, target, bound = x.float(), y.float(), 1 / x.shape[1] ** 0.5
    weight = ((torch.rand(y.shape[1], x.shape[1], generator=generator) * 2 - 1) * bound).requires_grad_()
    bias = ((torch.rand(y.shape[1], generator=generator) * 2 - 1) * bound).requires_grad_()
    positive = target.sum(0)
    raised = torch.where(positive > 0, (len(y) - positive) / positive.clamp_min(1), 1.0)
    optimiser = torch.optim.Adam([weight, bias], lr=0.01, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, gamma=(1e-5 / 0.01) ** (1 / epochs))
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            logits = x[rows] @ weight.T + bias
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target[rows], pos_weight=raised)
            if l1:
                loss = loss + l1 * weight.abs().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return Probes(weight.detach(), bias.detach())


def mean_difference(x: Float[Tensor, "N D"], y: Bool[np.ndarray, " N"]) -> Float[Tensor, " D"]:
    """Mean over the positive rows minus mean over the negative ones."""
    positive = torch.from_numpy(y).to(x.device)
    return x[positive].float().mean(0) - x[~positive].float().mean(0)


def top_coordinates(x: Float[Tensor, "N D"], y: Bool[np.ndarray, " N"], k: int) -> Int[Tensor, " K"]:
    """The k coordinates whose class means differ most in absolute value."""
    return mean_difference(x, y).abs().topk(min(k, x.shape[1])).indices


def sparse_accuracy(x: Float[Tensor, "N D"], split: Split, k: int) -> float:
    """Test accuracy of a logistic regression on the k coordinates that differ most on train."""
    chosen = top_coordinates(x[split.train], split.train_y, k)
    x = x[:, chosen]
    return fit_logistic(x[split.train], split.train_y).tested(x, split)
