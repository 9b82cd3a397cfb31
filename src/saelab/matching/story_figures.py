"""The figures of SAE Match (arXiv 2410.07656) as points: one row (figure, series, x, value, low, high) per point.

Figures are called as in the paper. Intervals are 95 %, over documents or over pairs. Must never know how they are
drawn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import polars as pl
import torch

from saelab.matching.baselines import MATCHED, random_pairs
from saelab.matching.cost import Parts
from saelab.matching.described import compared, pair_values, summarised
from saelab.matching.evaluate import (
    clean_nll,
    decoder_distances,
    explained_variance,
    limited,
    predicted,
    skips,
    tensor_errors,
    transferred,
    variance_sums,
)
from saelab.matching.fold import Fold, implied_threshold
from saelab.matching.match import compose
from saelab.matching.story import CHANCE, DIRECTIONS, FOLDED, HOW, UNFOLDED, Member, Pairs, Story
from saelab.stats.estimate import Estimate
from saelab.stats.means import mean_estimate
from saelab.stats.ratio import Sums, ratio_estimate

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
BINS, EXAMPLES = 24, 8
NUMBERS = ("value", "low", "high")
SCHEMA = {"figure": pl.String, "series": pl.String, "x": pl.Float64, **dict.fromkeys(NUMBERS, pl.Float64)}


@dataclass(frozen=True)
class Point:
    """One value of a series."""

    figure: str
    series: str
    x: float | int
    value: float | None
    low: float | None = None
    high: float | None = None


def points(story: Story) -> pl.DataFrame:
    """Every figure."""
    rows: list[Point] = []
    for part in (norms, errors, judged, scores, distances, skipped, tensors, levels, jumps, nearest_moved):
        rows += part(story)
    return pl.DataFrame([asdict(p) | {"x": float(p.x)} for p in rows], schema=SCHEMA)


def norms(story: Story) -> Iterator[Point]:
    """Figure 1: mean norms of the states, mean thresholds, and how their changes go together."""
    found = []
    for member in {m.site: m for m in reversed([*story.members.values()])}.values():
        theta = implied_threshold(member.sae)
        scale = story.folded[member.name].decoder.norm(dim=1) if theta is not None else torch.tensor([torch.nan])
        found.append((member.layer, float(story.rows(member).norm(dim=1).mean()), float(scale.mean())))
    for layer, norm, theta in sorted(found):
        yield Point("1 norms", "states", layer, norm)
        yield Point("1 thetas", "thresholds", layer, theta if np.isfinite(theta) else None)
    for a, b in story.steps:
        change = (story.rows(b).norm(dim=1) - story.rows(a).norm(dim=1)).mean()
        first, second = (story.folded[m.name].decoder for m in (a, b))
        pairs = torch.from_numpy(story.stepped[a.name, b.name][FOLDED])
        columns = (first - second[pairs]).norm(dim=1).mean()
        yield Point("1 change", f"{a.layer} to {b.layer}", float(change), float(columns))


def errors(story: Story) -> Iterator[Point]:
    """Figure 3: errors of matched tensors, always in the paper's units."""
    for a, b in story.steps:
        first, second = story.folded[a.name], story.folded[b.name]
        for how, pairs in story.stepped[a.name, b.name].items():
            for tensor, error in tensor_errors(first, second, pairs).items():
                yield Point(f"3 {tensor}", how, b.layer, error)


def judged(story: Story) -> Iterator[Point]:
    """Figures 4 to 7, left: how many pairs have the same description, and the decoder's error beside the answer."""
    if story.level is None:
        return
    for a, b in story.steps:
        pairs = pair_values(story.answers[a.name, b.name]).filter("ok")
        for (kind,), rows in pairs.group_by("kind", maintain_order=True):
            same = (rows["least"] >= story.level).cast(pl.Float64).to_numpy()
            name = f"story/described/{a.name}/{b.name}/{kind}"
            found = mean_estimate(same, name=name, seed=story.seed, bounds=(0.0, 1.0))
            yield Point("4", str(kind), b.layer, found.value, found.low, found.high)
    a, b = story.middle
    error = decoder_distances(story.folded[a.name], story.folded[b.name], story.stepped[a.name, b.name][FOLDED])
    error = error / story.folded[a.name].decoder.shape[1]
    edges = np.quantile(error[np.isfinite(error)], np.linspace(0, 0.99, BINS + 1))
    edges = np.linspace(edges[0], edges[-1], BINS + 1)
    yield from _histogram("5", "all pairs", error, edges)
    table = pair_values(story.answers[a.name, b.name]).filter("ok", kind=FOLDED)
    for name, kept in (("same", pl.col("least") >= story.level), ("different", pl.col("least") < story.level)):
        some = error[table.filter(kept)["a"].to_numpy()]
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            yield Point("6", name, share, float(np.quantile(some, share)) if len(some) else None)


def _histogram(figure: str, series: str, values: np.ndarray, edges: np.ndarray) -> Iterator[Point]:
    counts = np.histogram(values[np.isfinite(values)], edges)[0]
    for middle, count in zip((edges[:-1] + edges[1:]) / 2, counts, strict=True):
        yield Point(figure, series, float(middle), float(count))


def scores(story: Story) -> Iterator[Point]:
    """Figure 7, right: P(partner on | feature on), and how far the paper's lies above the others on the same text."""
    for a, b in story.steps:
        for how, pairs in story.stepped[a.name, b.name].items():
            yield _with_ends("7", how, b.layer, story.score(a, b, pairs))
        sums = {how: story.shared(a, b, story.stepped[a.name, b.name][how]) for how in HOW}
        yield from _less(story, "7", b.layer, sums)


def _less(story: Story, figure: str, x: float | int, sums: Mapping[str, Sums]) -> Iterator[Point]:
    """The folded matching's value less each other's, paired over documents."""
    for other in (DIRECTIONS, UNFOLDED):
        name = f"story/{figure}/{other}/{x:g}"
        found = ratio_estimate(sums[FOLDED], sums[other], name=name, seed=story.seed)
        yield _with_ends(f"{figure} less", other, x, found)


def _with_ends(figure: str, series: str, x: float | int, found: Estimate) -> Point:
    return Point(figure, series, x, found.value, found.low, found.high)


def distances(story: Story) -> Iterator[Point]:
    """Figure 8: from the first SAE of the chain to each later one, step by step and directly."""
    start, ways = story.chain[0], dict[str, Pairs]()
    for apart, (a, b) in enumerate(pairwise(story.chain), 1):
        for how in (FOLDED, DIRECTIONS):
            step, so_far = story.matched(a, b, how), ways.get(f"composed, {how}")
            ways[f"composed, {how}"] = step if so_far is None else compose(so_far, step)
            ways[f"direct, {how}"] = step if apart == 1 else story.matched(start, b, how)
        every = ways | {CHANCE: random_pairs(len(start.sae.W_dec), story.seed)}
        for name, pairs in every.items():
            yield _with_ends("8", name, apart, story.score(start, b, pairs))
        if story.level is not None:
            table = compared(story.judge, start.described, b.described, every, pairs=story.pairs, seed=story.seed)
            for name, found in summarised(table, story.level).items():
                if name in every:
                    yield Point("8 described", name, apart, found["same"])


def skipped(story: Story) -> Iterator[Point]:
    """Figures 10, 11 and 13: the second site's state predicted from the first's, on every text."""
    with story.progress.task("skipping", len(story.passes) * len(story.steps), "steps") as task:
        for text, whole in story.passes.items():
            for a, b in story.steps:
                two = whole.two(a.site, b.site)
                few, documents = two.part(story.loss_contexts), two.documents[two.kept]
                clean, x, y = clean_nll(story.lm, few, b.site), float(b.layer), two.second[two.kept]
                losses, variances = dict[str, Sums](), dict[str, Sums]()
                for how in HOW:
                    pairs = story.stepped[a.name, b.name][how]
                    saes, scales = (a.sae, b.sae), (story.scale_of(a, how), story.scale_of(b, how))
                    beside = how == FOLDED
                    found = skips(story.lm, few, b.site, saes, pairs, scales, beside=beside, clean=clean)
                    states = predicted(two, saes, pairs, scales, beside=beside)
                    for name, skip in found.items():
                        series = how if name == MATCHED else name
                        losses[series] = skip.ce
                        variances[series] = variance_sums(y, states[name], documents)
                yield from _of_skip(story, f"10 {text}", x, losses)
                yield from _of_skip(story, f"11 {text}", x, variances)
                task.advance()


def _of_skip(story: Story, figure: str, x: float | int, sums: Mapping[str, Sums]) -> Iterator[Point]:
    for series, own in sums.items():
        found = ratio_estimate(own, name=f"story/{figure}/{series}/{x:g}", seed=story.seed)
        yield _with_ends(figure, series, x, found)
    yield from _less(story, figure, x, sums)


def tensors(story: Story) -> Iterator[Point]:
    """Figure 12: which tensors are compared, at the levels of one pair of sites."""
    for a, b in story.levels or [story.middle]:
        ways: dict[str, tuple[Fold, Parts]] = {
            "all": (story.fold, "all"), "decoder": (story.fold, "decoder"), "encoder": (story.fold, "encoder"),
            DIRECTIONS: HOW[DIRECTIONS],
        }  # fmt: skip
        for name, (fold, parts) in ways.items():
            pairs = story.matched_by(a, b, fold, parts)
            yield _with_ends("12", name, float(a.level), story.score(a, b, pairs))


def levels(story: Story) -> Iterator[Point]:
    """Figure 14: explained variance by L0."""
    for a, b in story.levels:
        for how in (FOLDED, DIRECTIONS):
            yield Point("14", how, float(a.level), _variance(story, a, b, how))
        with torch.inference_mode():
            x, y = story.rows(a), story.rows(b)
            for name, rebuilt in (
                ("current", b.sae.decode(b.sae.encode(y))),
                ("previous", a.sae.decode(a.sae.encode(x))),
            ):
                yield Point("14", name, float(a.level), explained_variance(y, rebuilt)[0])


def jumps(story: Story) -> Iterator[Point]:
    """Figure 15: every level of a site into every level of the next, as neighbours of one L0 should match best."""
    firsts, seconds = ([pair[side] for pair in story.levels] for side in (0, 1))
    for a, b in product(firsts, seconds):
        yield Point("15", f"into L0 {b.level}", float(a.level), _variance(story, a, b, FOLDED))


def _variance(story: Story, a: Member, b: Member, how: str) -> float:
    """The explained variance of the skip between two SAEs under a matching."""
    scales = story.scale_of(a, how), story.scale_of(b, how)
    with torch.inference_mode():
        codes = a.sae.encode(story.rows(a))
        rebuilt = b.sae.decode(transferred(codes, story.matched(a, b, how), scales))
        return explained_variance(story.rows(b), rebuilt)[0]


def nearest_moved(story: Story) -> Iterator[Point]:
    """Figure 16: only the nearest pairs moved."""
    for a, b in story.steps:
        pairs = story.stepped[a.name, b.name][FOLDED]
        error = decoder_distances(story.folded[a.name], story.folded[b.name], pairs)
        scales = story.folded[a.name].scale, story.folded[b.name].scale
        with torch.inference_mode():
            codes = a.sae.encode(story.rows(a))
            for share in QUANTILES:
                moved = error <= np.nanquantile(error, share)
                rebuilt = limited(codes, (a.sae, b.sae), pairs, scales, moved)
                value = explained_variance(story.rows(b), rebuilt)[0]
                yield Point("16", f"{a.layer} to {b.layer}", share, value)


def nearest(story: Story) -> list[dict[str, Any]]:
    """Figure 5: the pairs of least decoder error that are described on both sides."""
    a, b = story.middle
    pairs = story.stepped[a.name, b.name][FOLDED]
    error = decoder_distances(story.folded[a.name], story.folded[b.name], pairs)
    order = [i for i in np.argsort(error).tolist() if i in a.described and int(pairs[i]) in b.described]
    width = story.folded[a.name].decoder.shape[1]
    return [
        {
            "a": i, "b": int(pairs[i]), "error": float(error[i] / width), "first": a.described[i].text,
            "second": b.described[int(pairs[i])].text,
        }
        for i in order[:EXAMPLES]
    ]  # fmt: skip
