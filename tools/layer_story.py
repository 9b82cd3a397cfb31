"""The figures of SAE Match (arXiv 2410.07656) drawn from a finished `studies/layers.yaml`: docs/layers/.

    saelab run studies/layers.yaml --out layers
    python tools/layer_story.py layers docs/layers          (needs the extra `paper`: matplotlib)

numbers.csv: one row per point (figure, series, x, value); figures.png: a panel per figure, drawn from that table alone.
What the study has written (folded matchings, put to work) is read; what the paper compares it with (unfolded matchings,
encoder or decoder alone, direct matchings over several sites) is computed here on the same held-out contexts.
"""

import sys
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import torch

from saelab.lm.model import LanguageModel
from saelab.matching.baselines import random_pairs
from saelab.matching.evaluate import TwoSites, coactivation, read_sites, skips, tensor_errors
from saelab.matching.fold import FoldedFeatures, features_of
from saelab.matching.match import compose, match
from saelab.saes.base import Sae
from saelab.store.files import read_json, write_text
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.spec import SaeSpec, StudyConfig, saes_of
from saelab.study.workspace import HELD_OUT, Workspace

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LEVEL = 32
PANELS = {
    "3 decoder": ("Figure 3: decoder error in folded units", "site", "mean squared error"),
    "3 encoder": ("Figure 3: encoder error in folded units", "site", "mean squared error"),
    "7": ("Figure 7: matching score", "site", "P(partner on | feature on)"),
    "8": ("Figure 8: direct against composed, from the first site", "sites apart", "matching score"),
    "8 terms": ("Figure 8 by the descriptions' terms (no judge)", "sites apart", "share of pairs with a common term"),
    "10": ("Figures 10, 11: loss of the skip", "site", "nats"),
    "11": ("Figures 10, 11: explained variance", "site", "share"),
    "12": ("Figure 12: tensors compared, one pair of sites", "L0", "matching score"),
    "14": ("Figure 14: loss by L0, one pair of sites", "L0", "nats"),
    "14 EV": ("Figure 14: explained variance by L0", "L0", "share"),
    "16": ("Figure 16: only the nearest pairs moved", "share moved", "explained variance"),
}
Point = tuple[str, str, float, float | None]


class Story:
    """The points of every figure."""

    def __init__(self, run: RunFolder):
        self.run = run
        self.work = Workspace(StudyConfig.from_yaml(run.study), run)
        specs = saes_of(self.work.study)
        self.path = sorted((s for s in specs if s.level == LEVEL), key=lambda s: self.layer(s))
        by_level = [s for s in specs if s.level != LEVEL]
        pair = sorted({s.site for s in by_level}, key=lambda site: int(site.rpartition(".")[2]))
        both = [s for s in specs if s.site in pair]
        levels = sorted({s.level for s in both})
        self.levels = [[next(s for s in both if (s.site, s.level) == (at, k)) for at in pair] for k in levels]

    @staticmethod
    def layer(spec: SaeSpec) -> int:
        return int(spec.site.rpartition(".")[2])

    @cached_property
    def lm(self) -> LanguageModel:
        return self.work.lm(self.path[0].model)

    @cached_property
    def codes_on(self) -> dict[str, torch.Tensor]:
        """Which features of each SAE are on, at the positions kept at all sites."""
        sites = [s.site for s in self.path]
        readings = [self.reading(sites[0], site) for site in sites]
        kept = torch.stack([r.kept for r in readings]).all(0)
        found = {}
        with torch.inference_mode():
            for spec in [*self.path, *(s for both in self.levels for s in both)]:
                found[spec.name] = self.sae(spec).encode(readings[sites.index(spec.site)].second[kept]) > 0
        return found

    def reading(self, first: str, second: str) -> TwoSites:
        text = self.work.text(self.path[0].model, HELD_OUT)
        return read_sites(self.lm, text, (first, second), self.work.study.matching.contexts)

    def sae(self, spec: SaeSpec) -> Sae:
        return self.work.sae(spec.name)

    def quality(self, a: SaeSpec, b: SaeSpec) -> dict[str, Any]:
        """What the study found for the folded matching of two SAEs."""
        return read_json(self.run.matching(a.name, b.name).root / "quality.json")

    def partner(self, a: SaeSpec, b: SaeSpec) -> np.ndarray:
        return read_table(self.run.matching(a.name, b.name).root / "matching.parquet")["b"].to_numpy()

    def folded(self, spec: SaeSpec) -> FoldedFeatures:
        return features_of(self.sae(spec), "theta")

    def points(self) -> pl.DataFrame:
        """All of them."""
        rows: list[Point] = []
        for part in (self.neighbours, self.distances, self.by_level, self.limited):
            rows += part()
            print(f"{part.__name__}: {len(rows)} points", file=sys.stderr, flush=True)
        return pl.DataFrame(rows, schema=["figure", "series", "x", "value"], orient="row")

    def neighbours(self) -> Iterator[Point]:
        """Figures 3, 7, 10 and 11: every site and the next, folded and unfolded; x is the site that is predicted."""
        for a, b in pairwise(self.path):
            x, found = float(self.layer(b)), self.quality(a, b)
            unfolded = match(self.sae(a), self.sae(b), fold="none").permutation
            first, second = self.folded(a), self.folded(b)
            errors = {
                "identity": found["mse"]["identity"], "random": found["mse"]["random"],
                "matched unfolded": tensor_errors(first, second, unfolded), "matched folded": found["mse"]["matched"],
            }  # fmt: skip
            for name, of in errors.items():
                yield "3 decoder", name, x, of["decoder"]
                yield "3 encoder", name, x, of["encoder"]
            plain = coactivation(self.codes_on[a.name], self.codes_on[b.name], unfolded)
            yield "7", "folded", x, found["matching_score"]
            yield "7", "unfolded", x, plain["matching_score"]
            yield "7", "chance", x, found["chance"]
            scales = tuple(features_of(self.sae(s), "none").scale for s in (a, b))
            moved = skips(
                self.lm, self.reading(a.site, b.site), b.site, (self.sae(a), self.sae(b)), unfolded,
                (scales[0], scales[1]),
            )["matched"].record  # fmt: skip
            for name, skip in {"folded": found["skip"], "unfolded": moved, **found["compared_with"]}.items():
                yield "10", name, x, skip["ce_change"]
                yield "11", name, x, skip["explained_variance"]

    def distances(self) -> Iterator[Point]:
        """Figure 8: from the first site to each later one, composed step by step and matched directly."""
        start, composed = self.path[0], None
        for apart, (a, b) in enumerate(pairwise(self.path), 1):
            step = self.partner(a, b)
            composed = step if composed is None else compose(composed, step)
            direct = match(self.sae(start), self.sae(b), fold="theta").permutation
            chance = random_pairs(len(direct), self.work.study.seed)
            for name, pairs in (("composed", composed), ("direct", direct), ("random", chance)):
                on = self.codes_on[start.name], self.codes_on[b.name]
                yield "8", name, float(apart), coactivation(*on, pairs)["matching_score"]
                yield "8 terms", name, float(apart), self.common(start, b, pairs)

    def common(self, a: SaeSpec, b: SaeSpec, pairs: np.ndarray) -> float | None:
        """The share of pairs, of those with two descriptions, in which a term of one is a term of the other."""
        left, right = (self.terms(s) for s in (a, b))
        known = [(left[i], right[j]) for i, j in enumerate(pairs.tolist()) if i in left and j in right]
        return float(np.mean([bool(x & y) for x, y in known])) if known else None

    def terms(self, spec: SaeSpec) -> dict[int, set[str]]:
        """What drives each described feature: the single tokens of its description, without case and spaces."""
        table = read_table(self.run.interp(spec.name).root / "features.parquet").filter(pl.col("terms").is_not_null())
        return {
            row["feature"]: {t["text"].strip().casefold() for t in row["terms"]} for row in table.iter_rows(named=True)
        }

    def by_level(self) -> Iterator[Point]:
        """Figures 12 and 14: one pair of sites at several levels."""
        for a, b in self.levels:
            x, found = float(a.level), self.quality(a, b)
            for parts in ("all", "decoder", "encoder"):
                pairs = match(self.sae(a), self.sae(b), fold="theta", parts=parts).permutation
                on = self.codes_on[a.name], self.codes_on[b.name]
                yield "12", parts, x, coactivation(*on, pairs)["matching_score"]
            yield "12", "chance", x, found["chance"]
            for name, skip in {"matched": found["skip"], **found["compared_with"]}.items():
                yield "14", name, x, skip["ce_change"]
                yield "14 EV", name, x, skip["explained_variance"]

    def limited(self) -> Iterator[Point]:
        """Figure 16: the pairs of least folded decoder distance moved, the others left to A's own decoder."""
        for a, b in list(pairwise(self.path))[::3]:
            found = self.quality(a, b)
            for name, skip in found["limited"].items():
                share = float(name.removeprefix("quantile_"))
                yield "16", f"{self.layer(a)} to {self.layer(b)}", share, skip["explained_variance"]
            yield "16", f"{self.layer(a)} to {self.layer(b)}", 1.0, found["skip"]["explained_variance"]


def draw(points: pl.DataFrame, path: Path) -> None:
    """A panel per figure."""
    columns = 3
    rows = -(-len(PANELS) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    for ax in axes.flat[len(PANELS) :]:
        ax.set_axis_off()
    for ax, (name, (title, across, up)) in zip(axes.flat, PANELS.items(), strict=False):
        for (series,), part in points.filter(pl.col("figure") == name).group_by("series", maintain_order=True):
            ax.plot(part["x"], part["value"], marker="o", markersize=3, linewidth=1.2, label=series)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(across, fontsize=8)
        ax.set_ylabel(up, fontsize=8)
        ax.tick_params(labelsize=7)
        if across == "L0":
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
        ax.legend(fontsize=6.5, frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    points = Story(RunFolder(Path(sys.argv[1]))).points()
    write_text(out / "numbers.csv", points.write_csv(float_precision=5))
    draw(points, out / "figures.png")


if __name__ == "__main__":
    main()
