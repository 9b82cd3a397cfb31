"""Fidelity: how much of the activations, and of the LM's own prediction, survives the SAE.

    L0   mean over counted tokens of #{i: f_i != 0}
    FVU  sum ||x - xh||^2 / sum ||x - xbar||^2                                (fraction of variance unexplained)
    CE recovered = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean)

CE is the LM's mean next-token cross-entropy in nats with the site's activation left alone (clean), replaced by the
SAE's reconstruction (spliced), or by a constant (ablated). The constant is the mean activation; zero stands beside it,
because SAEBench uses zero, which damages the LM far more and so flatters every SAE. Special positions and attention
sinks are passed on untouched and not counted. All SAEs of a site share one pass up to it; each splice then costs only
the blocks above. Source: SAEBench `core` (0.6.0), with its explained variance as coded beside the corrected one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.seeds import seed_of
from saelab.lm.score import Continues, nll_from
from saelab.text.pack import PackedText

SINK_FACTOR = 10.0
Recode = Callable[[Tensor], Tensor]


@runtime_checkable
class Restartable(Continues, Protocol):
    """The part of a language model that fidelity needs: the pass up to a site, and the pass from it on."""

    def run_to(self, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> Mapping[str, Float[Tensor, "B T D"]]: ...


@dataclass(frozen=True)
class SiteReading:
    """One site's clean pass over a text, shared by every SAE of the site.

    kept: positions that are spliced (neither special nor an attention sink). scored: positions whose next token is
    predicted and counted: kept, and the next token belongs to the same document.
    """

    site: str
    tokens: Int[Tensor, "N T"]
    hidden: Float[Tensor, "N T D"]
    kept: Bool[Tensor, "N T"]
    scored: Bool[Tensor, "N T"]
    mean: Float[Tensor, "D"]
    batch_size: int

    @property
    def rows(self) -> Float[Tensor, "M D"]:
        """The kept activations, flattened."""
        return self.hidden[self.kept]

    def spread(self, contexts: int) -> "SiteReading":
        """So many of its contexts, evenly spread over them, with the mean of all."""
        part = torch.linspace(0, len(self.tokens) - 1, min(contexts, len(self.tokens))).round().long()
        return replace(
            self,
            tokens=self.tokens[part],
            hidden=self.hidden[part],
            kept=self.kept[part],
            scored=self.scored[part],
        )


@dataclass(frozen=True)
class Baselines:
    """Cross-entropies that belong to the site, not to an SAE (nats per token)."""

    clean: float
    mean_ablated: float
    zero_ablated: float

    def recovered(self, spliced: float) -> tuple[float | None, float | None]:
        """CE recovered against mean and against zero ablation; None where ablation does no measurable harm."""
        return _share(self.mean_ablated, spliced, self.clean), _share(self.zero_ablated, spliced, self.clean)


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


def read_site(lm: Restartable, packed: PackedText, site: str, *, batch_size: int = 8) -> SiteReading:
    """Run the LM once up to the site. Raises `UserError` where no position is left to count."""
    tokens, counts = packed.tokens.long(), packed.counts
    with torch.inference_mode():
        hidden = torch.cat([lm.run_to(b, [site])[site].float().cpu() for b in tokens.split(batch_size)])
    norms = hidden.norm(dim=-1)
    if not bool(counts.any()):
        raise UserError("The text holds special tokens only; nothing can be scored.", hint="Give some text.")
    kept = counts & (norms <= SINK_FACTOR * norms[counts].median())
    same = packed.document_ids[:, 1:] == packed.document_ids[:, :-1]
    scored = torch.zeros_like(kept)
    scored[:, :-1] = kept[:, :-1] & counts[:, 1:] & same
    if not bool(scored.any()):
        raise UserError("No token of the text has a successor in its document; nothing can be scored.")
    return SiteReading(site, tokens, hidden, kept, scored, hidden[kept].mean(0), batch_size)


def spliced_nll(lm: Restartable, reading: SiteReading, recode: Recode | None) -> Float[Tensor, "M"]:
    """Next-token negative log-likelihoods (nats) of the scored positions, kept activations replaced by `recode`.

    recode maps rows [M, D] to rows [M, D]; None leaves the pass clean.
    """
    found = []
    with torch.inference_mode():
        for part in range(0, len(reading.tokens), reading.batch_size):
            rows = slice(part, part + reading.batch_size)
            hidden, kept, scored = reading.hidden[rows], reading.kept[rows], reading.scored[rows]
            if recode is not None:
                hidden = hidden.clone()
                hidden[kept] = recode(hidden[kept]).to(hidden.dtype)
            found.append(nll_from(lm, hidden, reading.site, reading.tokens[rows], scored))
    return torch.cat(found)


def baselines_of(lm: Restartable, reading: SiteReading) -> Baselines:
    """Clean, mean-ablated and zero-ablated cross-entropy of a site."""
    mean = reading.mean
    runs = (None, lambda x: mean.expand_as(x), torch.zeros_like)
    clean, ablated, zeroed = (float(spliced_nll(lm, reading, recode).double().mean()) for recode in runs)
    return Baselines(clean, ablated, zeroed)


def reconstruction_of(
    encode: Recode, decode: Recode, rows: Float[Tensor, "M D"], *, block: int = 4096
) -> Reconstruction:
    """L0, FVU and shrinkage of an SAE on rows of activations. Independent of `block` up to rounding."""
    mean, active, error, variance, square, cosine, ratio = rows.double().mean(0), *([0.0] * 6)
    with torch.inference_mode():
        for x in rows.split(block):
            codes = encode(x)
            rebuilt = decode(codes).double()
            x = x.double()
            active += float((codes != 0).sum())
            error += float((x - rebuilt).square().sum())
            variance += float((x - mean).square().sum())
            square += float(x.square().sum())
            cosine += float(torch.nn.functional.cosine_similarity(x, rebuilt, dim=-1).sum())
            ratio += float((rebuilt.norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-4)).sum())
    n, d = rows.shape
    as_coded = square / n - (square / n / d) ** 2
    return Reconstruction(
        l0=active / n,
        fvu=error / variance,
        explained_variance=1 - error / variance,
        explained_variance_as_coded=1 - error / n / as_coded if as_coded != 0 else None,
        cosine=cosine / n,
        norm_ratio=ratio / n,
    )


@dataclass(frozen=True)
class RandomDictionary:
    """The control: k of F random unit directions, chosen per token by projection, with one least-squares scale.

        z = TopK_k((x - mean) R^T),   xh = mean + s z R,   s = sum <x - mean, z R> / sum ||z R||^2

    the encoder is the decoder's transpose; nothing else is fitted.
    """

    directions: Float[Tensor, "F D"]
    mean: Float[Tensor, "D"]
    k: int
    scale: float

    @classmethod
    def fit(cls, rows: Float[Tensor, "M D"], n_features: int, k: int, *, seed: int = 0) -> "RandomDictionary":
        """Draw the directions from the seed and fit the scale on `rows`."""
        generator = torch.Generator().manual_seed(seed_of(seed, "random dictionary", n_features, rows.shape[1]))
        drawn = torch.randn(n_features, rows.shape[1], generator=generator)
        mean = rows.mean(0)
        plain = cls(torch.nn.functional.normalize(drawn, dim=-1).to(rows.device), mean, k, 1.0)
        dot, square = 0.0, 0.0
        for x in rows.split(4096):
            raw = plain.decode(plain.encode(x)) - mean
            dot, square = dot + float(((x - mean) * raw).sum()), square + float(raw.square().sum())
        return cls(plain.directions, mean, k, dot / square if square else 0.0)

    def encode(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        projections = torch.relu((x - self.mean) @ self.directions.T)
        top = projections.topk(min(self.k, projections.shape[-1]), dim=-1)
        return torch.zeros_like(projections).scatter_(-1, top.indices, top.values)

    def decode(self, codes: Float[Tensor, "M F"]) -> Float[Tensor, "M D"]:
        return self.mean + self.scale * (codes @ self.directions)


def control_k(l0: float) -> int:
    """The k of the random control for an SAE of this L0: the nearest half-octave (1, 2, 3, 4, 6, 8, 12, 16, ...).

    SAEs whose L0 are close then share one control, which halves the cost of a grid.
    """
    grid = sorted({1, 2, 3} | {2**i for i in range(2, 16)} | {3 * 2**i for i in range(1, 15)})
    return min(grid, key=lambda k: abs(math.log(k) - math.log(max(l0, 1.0))))


def _share(ablated: float, spliced: float, clean: float) -> float | None:
    harm = ablated - clean
    return (ablated - spliced) / harm if abs(harm) > 1e-9 else None
