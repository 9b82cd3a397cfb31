"""Fidelity: how much of the activations, and of the LM's own prediction, survives the SAE.

    L0   mean over counted tokens of #{i: f_i != 0}
    FVU  sum ||x - xh||^2 / sum ||x - xbar||^2                                (fraction of variance unexplained)
    CE recovered = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean)

CE is the LM's mean next-token cross-entropy in nats with the site's activation left alone (clean), replaced by the
SAE's reconstruction (spliced), or by a constant (ablated). The constant is the mean activation; zero stands beside it,
because SAEBench uses zero, which damages the LM more and so flatters every SAE. Where ablation does no measurable harm
(two standard errors over contexts; an LM of random weights) there is nothing to recover, and the share is missing.
Special positions and sinks are passed on untouched and not counted (activations/site.py). All SAEs of a site share one
pass up to it; each splice then costs only the blocks above. Source: SAEBench `core` (0.6.0), with its explained
variance as coded beside the corrected one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.site import Recode, Restartable, SitePass, spliced_ce, spliced_nll


@dataclass(frozen=True)
class Baselines:
    """Cross-entropies that belong to the site, not to an SAE (nats per token).

    mean_error, zero_error: standard errors of what ablation adds to the clean one, over contexts.
    """

    clean: float
    mean_ablated: float
    zero_ablated: float
    mean_error: float = 0.0
    zero_error: float = 0.0

    def recovered(self, spliced: float) -> tuple[float | None, float | None]:
        """CE recovered against mean and against zero ablation; None where ablation does no measurable harm."""
        return (
            _share(self.mean_ablated, spliced, self.clean, self.mean_error),
            _share(self.zero_ablated, spliced, self.clean, self.zero_error),
        )


@dataclass(frozen=True)
class SplicedLoss:
    """Cross-entropy (nats) with an SAE spliced in, and the share of it recovered against mean and zero ablation.

    A share is None where ablation does no measurable harm.
    """

    ce: float
    recovered: float | None
    recovered_zero: float | None


@dataclass(frozen=True)
class Reconstruction:
    """How well codes rebuild the counted activations.

    explained_variance_as_coded is SAEBench 0.6.0's field: its variance is S - (S / d)^2 with S = E||x||^2, which is not
    a variance; it is kept for parity and must not be compared between sites.
    """

    l0: float
    fvu: float
    explained_variance: float
    explained_variance_as_coded: float | None
    cosine: float
    norm_ratio: float


def baselines_of(lm: Restartable, clean: SitePass, mean: Float[Tensor, " D"] | None = None) -> Baselines:
    """Clean, mean-ablated and zero-ablated cross-entropy of a site. mean: by default that of its rows."""
    constant = clean.rows.mean(0) if mean is None else mean
    left, *ablated = (
        spliced_nll(lm, clean, recode).double() for recode in (None, lambda x: constant.expand_as(x), torch.zeros_like)
    )
    contexts = clean.scored.nonzero()[:, 0]
    errors = [standard_error(nll - left, contexts) for nll in ablated]
    return Baselines(*(float(nll.mean()) for nll in (left, *ablated)), *errors)


def standard_error(harm: Float[Tensor, " M"], contexts: Int[Tensor, " M"]) -> float:
    """Of the mean over tokens (nats), where contexts are what was drawn."""
    sums = torch.zeros(int(contexts.max()) + 1, dtype=harm.dtype).index_add_(0, contexts, harm - harm.mean())
    return float(sums.square().sum().sqrt()) / len(harm)


def splice(lm: Restartable, clean: SitePass, baselines: Baselines, recode: Recode) -> SplicedLoss:
    """The cross-entropy with `recode` in place of the kept activations, and what it recovers."""
    ce = spliced_ce(lm, clean, recode)
    return SplicedLoss(ce, *baselines.recovered(ce))


def splice_rows(lm: Restartable, clean: SitePass, baselines: Baselines, rows: Float[Tensor, "M D"]) -> SplicedLoss:
    """The same with rows that are there already: a transcoder makes them of another site."""
    ce = spliced_ce(lm, clean.replaced(rows), None)
    return SplicedLoss(ce, *baselines.recovered(ce))


def reconstruction_of(
    encode: Recode,
    decode: Recode,
    rows: Float[Tensor, "M D"],
    *,
    across: tuple[Float[Tensor, "M E"], Recode] | None = None,
    block: int = 4096,
) -> Reconstruction:
    """L0, FVU and shrinkage of an SAE on rows of activations. Independent of `block` up to rounding.

    across: of a transcoder, what it rebuilds and how it does from rows; all but L0 is then of that.
    """
    target = rows if across is None else across[0]
    mean, active, error, variance, square, cosine, ratio = target.double().mean(0), *([0.0] * 6)
    with torch.inference_mode():
        for read, x in zip(rows.split(block), target.split(block), strict=True):
            codes = encode(read)
            rebuilt = (decode(codes) if across is None else across[1](read)).double()
            x = x.double()
            active += float((codes != 0).sum())
            error += float((x - rebuilt).square().sum())
            variance += float((x - mean).square().sum())
            square += float(x.square().sum())
            cosine += float(torch.nn.functional.cosine_similarity(x, rebuilt, dim=-1).sum())
            ratio += float((rebuilt.norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-4)).sum())
    n, d = target.shape
    as_coded = square / n - (square / n / d) ** 2
    return Reconstruction(
        l0=active / n,
        fvu=error / variance,
        explained_variance=1 - error / variance,
        explained_variance_as_coded=1 - error / n / as_coded if as_coded != 0 else None,
        cosine=cosine / n,
        norm_ratio=ratio / n,
    )


def _share(ablated: float, spliced: float, clean: float, error: float) -> float | None:
    """A share of what is not there is no share: harm counts from two standard errors on."""
    harm = ablated - clean
    return (ablated - spliced) / harm if harm > max(2 * error, 1e-9) else None
