"""What a feature corresponds to in other SAEs of its run: partners by matching, and its path through the layers.

Reads what matching has written; nothing is matched here. A partner's class and distance are those of the partial
matching, in the direction in which it was made. Must never know costs.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from saelab.core.errors import ArtefactError
from saelab.store.layout import RunFolder

Place = tuple[str, int]  # an SAE and a feature of it


@dataclass(frozen=True)
class Partner:
    """A feature of another SAE.

    relation: how the two SAEs differ: site, seed or SAE. kind: class of the partial matching (carried on, changed),
    or "matched" where only the full one pairs them. distance: 1 - cosine for rows of equal norm; None: the matching is
    full. composed: the pair is the end of a chain of matchings.
    """

    sae: str
    feature: int
    relation: str
    kind: str
    distance: float | None
    cosine: float | None
    forward: bool
    composed: bool


class Partners:
    """The matchings of one run. coordinates: of every SAE, its site, seed and whatever else tells it from others."""

    def __init__(self, run: RunFolder, names: Mapping[str, str], coordinates: Mapping[str, Mapping[str, object]]):
        """names: of the SAEs as the run calls them, what they are called here."""
        self.run, self.names, self.coordinates = run, dict(names), coordinates

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The SAEs that were matched, as the run calls them."""
        folder = self.run.matching("", "").root.parent
        found = [p.name.partition("--") for p in sorted(folder.iterdir())] if folder.is_dir() else []
        return [
            (first, second)
            for first, _, second in found
            if first in self.names and second in self.names and self.run.matching(first, second).matching.exists
        ]

    @cached_property
    def _tables(self) -> dict[tuple[str, str], pl.DataFrame]:
        found = {}
        for pair in self.pairs:
            with suppress(ArtefactError):  # a damaged matching is none; comparing the two says so
                found[pair] = self.run.matching(*pair).matching.read(["a", "b"])
        return found

    @cached_property
    def _composed(self) -> set[tuple[str, str]]:
        quality = {pair: self.run.matching(*pair).quality for pair in self.pairs}
        return {pair for pair, record in quality.items() if record.exists and record.read().get("composed")}

    def of(self, sae: str, feature: int) -> list[Partner]:
        """The partners of a feature, those of the partial matchings first."""
        found = []
        for pair, table in self._tables.items():
            names = tuple(self.names[p] for p in pair)
            if sae not in names:
                continue
            forward = sae == names[0]
            found += self._in(table, pair, feature, forward=forward)
        return sorted(found, key=lambda p: (p.distance is None, p.composed, p.distance or 0.0, p.sae))

    def _in(self, table: pl.DataFrame, pair: tuple[str, str], feature: int, *, forward: bool) -> list[Partner]:
        partial = "partner" if "partner" in table.columns else None
        own, other = ("a", partial or "b") if forward else (partial or "b", "a")
        rows = table.filter(pl.col(own) == feature).drop_nulls(other)
        kind = "class" if "class" in rows.columns and partial else None
        if rows.is_empty() and partial:
            own, other, kind = ("a", "b", None) if forward else ("b", "a", None)
            rows = table.filter((pl.col(own) == feature) & (pl.col("b") >= 0))
        sae = self.names[pair[1] if forward else pair[0]]
        return [
            Partner(
                sae,
                int(row[other]),
                self._relation(*pair),
                kind=str(row[kind]) if kind else "matched",
                distance=row.get("distance") if kind else None,
                cosine=row.get("cosine") if row.get("b") == row.get(partial or "b") else None,
                forward=forward,
                composed=pair in self._composed,
            )
            for row in rows.iter_rows(named=True)
        ]

    def _relation(self, first: str, second: str) -> str:
        a, b = self.coordinates[first], self.coordinates[second]
        return next((name for name in ("site", "seed") if a.get(name) != b.get(name)), "SAE")

    def classes(self, sae: str) -> pl.DataFrame | None:
        """Of every feature, its class on the way to the next site: columns feature, class, distance; None: unknown."""
        for pair, table in self._tables.items():
            onward = self.names[pair[0]] == sae and pair not in self._composed
            if onward and self._relation(*pair) == "site" and "class" in table.columns:
                return table.select(pl.col("a").alias("feature"), "class", "distance")
        return None

    def stability(self, sae: str) -> pl.DataFrame | None:
        """Of every feature, the cosine with its match in an SAE of another seed: columns feature, stability.

        The mean over seeds; None where no two seeds were matched.
        """
        found = []
        for pair, table in self._tables.items():
            here = [k for k in (0, 1) if self.names[pair[k]] == sae]
            if here and self._relation(*pair) == "seed" and "cosine" in table.columns:
                found.append(table.select(pl.col("ab"[here[0]]).alias("feature"), pl.col("cosine").alias("stability")))
        if not found:
            return None
        together = pl.concat(found).filter(pl.col("feature") >= 0)
        return together.group_by("feature").agg(pl.col("stability").mean())

    def path(self, sae: str, feature: int) -> list[Place]:
        """The features at all sites that this one is followed to, itself among them, in order of sites."""
        before, after = self._followed(sae, feature, back=True), self._followed(sae, feature, back=False)
        return [*reversed(before), (sae, feature), *after]

    def _followed(self, sae: str, feature: int, *, back: bool) -> list[Place]:
        way: list[Place] = []
        at, seen = (sae, feature), {sae}
        while (step := next(iter(self._steps(at, back=back)), None)) is not None and step[0] not in seen:
            way.append(step)
            seen.add(step[0])
            at = step
        return way

    def _steps(self, at: Place, *, back: bool) -> Iterable[Place]:
        """Where a feature goes, or comes from, in one step between sites."""
        for pair, table in self._tables.items():
            names = tuple(self.names[p] for p in pair)
            if names[int(back)] != at[0] or pair in self._composed or self._relation(*pair) != "site":
                continue
            other = "partner" if "partner" in table.columns else "b"
            own, wanted = (other, "a") if back else ("a", other)
            rows = table.filter(pl.col(own) == at[1]).drop_nulls(wanted)
            rows = rows.filter(pl.col(wanted) >= 0)
            for value in np.asarray(rows[wanted]).tolist():
                yield names[int(not back)], int(value)
