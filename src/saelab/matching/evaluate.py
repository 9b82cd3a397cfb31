"""Is a matching any good? By co-activation, and by putting the matched features to work (arXiv 2410.07656, section 4).

Matching score: P(matched feature of B on | feature of A on), micro over tokens and features, with the reverse,
Jaccard and the ratio to independence beside it. Skip: the state at B's site is predicted from A's site, encode with
A, permute, rescale to B's folded units, decode with B; the blocks between are skipped. The paper's "explained
variance" is printed as its complement; here EV = 1 - sum Var(err) / sum Var(x) (centred) and 1 - sum |err|^2 / sum |x
- mean|^2 (with the mean shift).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from saelab.activations.site import SitePass, read_states, sink_bound, spliced_nll, stream_site
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel
from saelab.matching.baselines import BASELINES, MATCHED
from saelab.matching.fold import FoldedFeatures, HasFeatures
from saelab.stats.ratio import Sums
from saelab.text.pack import PackedText

BATCH = 8


@dataclass(frozen=True)
class TwoSites:
    """Both sites on one text. `kept`: positions that count and are no attention sink at either site.

    documents: which document every token is of; intervals are over them.
    """

    tokens: Int[Tensor, "N T"]
    documents: Int[Tensor, "N T"]
    first: Float[Tensor, "N T D"]
    second: Float[Tensor, "N T D"]
    kept: Bool[Tensor, "N T"]
    stream: Float[Tensor, "N T E"] | None = None  # with which a pass from the second starts, where it is inside a block

    def part(self, contexts: int) -> "TwoSites":
        """The first contexts of it."""
        some = slice(contexts)
        return TwoSites(
            self.tokens[some], self.documents[some], self.first[some], self.second[some], self.kept[some],
            None if self.stream is None else self.stream[some],
        )  # fmt: skip


@dataclass(frozen=True)
class PathPass:
    """Several sites on one text, read in one pass. counts: positions that are no special token."""

    tokens: Int[Tensor, "N T"]
    documents: Int[Tensor, "N T"]
    counts: Bool[Tensor, "N T"]
    states: Mapping[str, Float[Tensor, "N T E"]]

    def kept(self, sites: Iterable[str]) -> Bool[Tensor, "N T"]:
        """Positions that count and are no attention sink at any of the sites."""
        kept = self.counts.clone()
        for x in (self.states[site] for site in sites):
            norms = x.norm(dim=-1)
            kept &= norms <= sink_bound(norms[self.counts])
        return kept

    def two(self, first: str, second: str) -> TwoSites:
        """Two of the sites."""
        before = stream_site(second)
        stream = self.states[before] if before else None
        states = self.states[first], self.states[second]
        return TwoSites(self.tokens, self.documents, *states, self.kept((first, second)), stream)


def read_path(lm: LanguageModel, text: PackedText, sites: Sequence[str], contexts: int) -> PathPass:
    """One LM pass over the first contexts."""
    tokens, counts = text.tokens[:contexts].long(), text.counts[:contexts]
    wanted = dict.fromkeys([*sites, *(before for site in sites if (before := stream_site(site)))])
    states = read_states(lm, tokens, [*wanted], batch_size=BATCH)
    return PathPass(tokens, text.document_ids[:contexts].long(), counts, states)


def read_sites(lm: LanguageModel, text: PackedText, sites: tuple[str, str], contexts: int) -> TwoSites:
    """Two sites on the first contexts."""
    return read_path(lm, text, sites, contexts).two(*sites)


def by_document(values: Shaped[Tensor, " M"], documents: Int[Tensor, " M"]) -> Float[np.ndarray, " K"]:
    """Sums of the values of tokens over documents; documents: their numbers, -1 for a token of none."""
    kept = documents >= 0
    size = int(documents.max()) + 1 if len(documents) else 0
    total = torch.zeros(max(size, 0), dtype=torch.float64)
    return total.index_add_(0, documents[kept], values[kept].double()).numpy()


def coactive(
    on_a: Bool[Tensor, "N F"], on_b: Bool[Tensor, "N G"], permutation: Int[np.ndarray, " F"], documents: Tensor
) -> Sums:
    """The two halves of the matching score by document: activations of matched features of A, and those shared."""
    i = np.flatnonzero(permutation >= 0)
    a, b = on_a[:, i], on_b[:, permutation[i]]
    return Sums(by_document((a & b).sum(1), documents), by_document(a.sum(1), documents))


def coactivation(
    on_a: Bool[Tensor, "N F"], on_b: Bool[Tensor, "N G"], permutation: Int[np.ndarray, " F"]
) -> dict[str, float | None]:
    """Matching scores of a matching: micro, macro, reverse, jaccard, chance (of independent features), over_chance (its
    ratio to that).

    None where no matched feature is ever on.
    """
    i = np.flatnonzero(permutation >= 0)
    a, b = on_a[:, i].float(), on_b[:, permutation[i]].float()
    both, count_a, count_b = ((a * b).sum(0), a.sum(0), b.sum(0))
    if not float(count_a.sum()) or not float(count_b.sum()):
        return dict.fromkeys(("matching_score", "macro", "reverse", "jaccard", "chance", "over_chance"))
    micro = float(both.sum() / count_a.sum())
    chance = float((count_a * count_b / len(a)).sum() / count_a.sum())
    live = count_a > 0
    return {
        "matching_score": micro,
        "macro": float((both[live] / count_a[live]).mean()),
        "reverse": float(both.sum() / count_b.sum()),
        "jaccard": float(both.sum() / (count_a + count_b - both).sum()),
        "chance": chance,
        "over_chance": micro / chance,
    }


def transferred(
    codes: Float[Tensor, "N F"],
    permutation: Int[np.ndarray, " F"],
    scales: tuple[Float[Tensor, " F"], Float[Tensor, " G"]],
) -> Float[Tensor, "N G"]:
    """Codes of A as codes of B: index by index, from A's folded units to B's. Unmatched features fall silent."""
    i = np.flatnonzero(permutation >= 0)
    j = torch.from_numpy(permutation[i])
    out = torch.zeros(codes.shape[0], len(scales[1]))
    out[:, j] = codes[:, i] / scales[0][i] * scales[1][j]
    return out


def limited(
    codes: Float[Tensor, "N F"],
    saes: tuple[HasFeatures, HasFeatures],
    permutation: Int[np.ndarray, " F"],
    scales: tuple[Float[Tensor, " F"], Float[Tensor, " G"]],
    moved: Bool[np.ndarray, " F"],
) -> Float[Tensor, "N D"]:
    """Only the moved features go through their partners, the others through A's own decoder; B's bias (Eq. 6).

    The paper's Eq. 6 leaves out the permutation; here the moved codes are permuted.
    """
    a, b = saes
    own = codes * torch.from_numpy(~moved)
    through = transferred(codes, np.where(moved, permutation, -1), scales)
    return (a.decode(own) - a.b_dec) + b.decode(through)


def decoder_distances(
    first: FoldedFeatures, second: FoldedFeatures, permutation: Int[np.ndarray, " F"]
) -> Float[np.ndarray, " F"]:
    """Squared distances of matched folded decoder rows (NaN: unmatched)."""
    i = np.flatnonzero(permutation >= 0)
    found = np.full(len(permutation), np.nan)
    apart = first.decoder[torch.from_numpy(i)] - second.decoder[torch.from_numpy(permutation[i])]
    found[i] = apart.double().square().sum(1).numpy()
    return found


def tensor_errors(
    first: FoldedFeatures, second: FoldedFeatures, permutation: Int[np.ndarray, " F"]
) -> dict[str, float | None]:
    """Mean squared errors of matched decoder, encoder and bias entries, in folded units (the paper's Figure 3)."""
    i = torch.from_numpy(np.flatnonzero(permutation >= 0))
    j = torch.from_numpy(permutation[permutation >= 0])
    if not len(i):
        return dict.fromkeys(("decoder", "encoder", "bias"))
    pairs = {"decoder": (first.decoder, second.decoder), "encoder": (first.encoder, second.encoder)}
    pairs["bias"] = (first.bias, second.bias)
    return {k: float((a[i] - b[j]).double().square().mean()) for k, (a, b) in pairs.items()}


def cost_shares(
    first: FoldedFeatures,
    second: FoldedFeatures,
    permutation: Int[np.ndarray, " F"],
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, float] | None:
    """What decoder, encoder and bias of the pairs add to a cost of all tensors, as shares of 1; None of no pair."""
    errors = tensor_errors(first, second, permutation)
    sizes = {"decoder": first.decoder.shape[1], "encoder": first.encoder.shape[1], "bias": 1}
    sums = {k: w * (errors[k] or 0.0) * sizes[k] for k, w in zip(sizes, weights, strict=True)}
    total = sum(sums.values())
    return {k: v / total for k, v in sums.items()} if total else None


def explained_variance(x: Float[Tensor, "N D"], rebuilt: Float[Tensor, "N D"]) -> tuple[float, float]:
    """(centred, with the mean shift) shares of the variance of x that a prediction explains."""
    error = (rebuilt - x).double()
    total = (x.double() - x.double().mean(0)).square().sum()
    centred = (error - error.mean(0)).square().sum()
    return float(1 - centred / total), float(1 - error.square().sum() / total)


@dataclass(frozen=True)
class Skip:
    """The state at the second site replaced by a prediction: explained variances and change of cross-entropy (nats).

    variance, ce: the halves of `explained_variance` and of `ce_change` by document, from which intervals are made.
    """

    explained_variance: float
    explained_variance_mse: float
    ce_change: float
    variance: Sums
    ce: Sums

    @property
    def record(self) -> dict[str, float]:
        """The three numbers."""
        names = ("explained_variance", "explained_variance_mse", "ce_change")
        return {name: getattr(self, name) for name in names}


def variance_sums(x: Float[Tensor, "N D"], rebuilt: Float[Tensor, "N D"], documents: Int[Tensor, " N"]) -> Sums:
    """The two halves of the centred explained variance by document."""
    error, spread = (z - z.mean(0) for z in ((rebuilt - x).double(), x.double()))
    error, spread = error.square().sum(1), spread.square().sum(1)
    return Sums(by_document(spread - error, documents), by_document(spread, documents))


def predicted(
    two: TwoSites,
    saes: tuple[HasFeatures, HasFeatures],
    permutation: Int[np.ndarray, " F"],
    scales: tuple[Float[Tensor, " F"], Float[Tensor, " G"]],
    *,
    moved: Mapping[str, Bool[np.ndarray, " F"]] | None = None,
    beside: bool = True,
) -> dict[str, Float[Tensor, "M D"]]:
    """The states that `skips` puts in place of the second site's, by name, at the kept positions."""
    x, y = two.first[two.kept], two.second[two.kept]
    a, b = saes
    with torch.inference_mode():
        codes = a.encode(x)
        found = {MATCHED: b.decode(transferred(codes, permutation, scales))}
        if beside:
            found |= {other.name: other.predict(a, b, x, y) for other in BASELINES.values() if other.predict}
        for name, which in (moved or {}).items():
            found[name] = limited(codes, saes, permutation, scales, which)
    return found


def skips(
    lm: LanguageModel,
    two: TwoSites,
    site: str,
    saes: tuple[HasFeatures, HasFeatures],
    permutation: Int[np.ndarray, " F"],
    scales: tuple[Float[Tensor, " F"], Float[Tensor, " G"]],
    *,
    moved: Mapping[str, Bool[np.ndarray, " F"]] | None = None,
    beside: bool = True,
    clean: Float[Tensor, " M"] | None = None,
    progress: Progress = SILENT,
) -> dict[str, Skip]:
    """By name: the skip, the catalogue's other predictions (baselines.py), and `moved`: further skips, in which only
    some features go through their partners (`limited`). beside: whether the others are wanted. clean: `clean_nll`,
    where it is known.
    """
    predictions = predicted(two, saes, permutation, scales, moved=moved, beside=beside)
    y = two.second[two.kept]
    with torch.inference_mode():
        found: dict[str, Skip] = {}
        with progress.task("skipping", len(predictions) + 1, "passes") as task:
            true = _second(two, site)
            clean = spliced_nll(lm, true, None) if clean is None else clean
            task.advance()
            for name, rebuilt in predictions.items():
                change = spliced_nll(lm, true.replaced(rebuilt), None) - clean
                found[name] = _skip(y, rebuilt, change, two)
                task.advance()
    return found


def _second(two: TwoSites, site: str) -> SitePass:
    return SitePass(site, two.tokens, two.second, two.kept, two.kept, BATCH, two.stream)


def clean_nll(lm: LanguageModel, two: TwoSites, site: str) -> Float[Tensor, " M"]:
    """Log-likelihoods (negative, nats) of the tokens that follow the kept positions, nothing replaced."""
    return spliced_nll(lm, _second(two, site), None)


def _skip(y: Float[Tensor, "N D"], rebuilt: Float[Tensor, "N D"], change: Float[Tensor, " M"], two: TwoSites) -> Skip:
    """change: of the log-likelihoods of the tokens that follow the kept positions."""
    centred, shifted = explained_variance(y, rebuilt)
    scored, variance = two.kept[:, :-1], variance_sums(y, rebuilt, two.documents[two.kept])
    following = two.documents[:, :-1][scored]
    ce = Sums(by_document(change, following), by_document(torch.ones_like(change), following))
    return Skip(centred, shifted, float(change.double().mean()), variance, ce)
