"""All features of all SAEs that are open, one row each: sorted, filtered and searched fast enough to type against.

A query is words; each must stand in a feature's description, in a token that it promotes or suppresses, or in one of
its contexts, in any case; a query in double quotes is one word. In order of interest, what stands in descriptions comes
before what stands in tokens alone, and that before contexts. Contexts are windows of one text, so a word is looked
for once in that text, and a context holds it where the next hit after its first token ends before its last. Must never
know where a column comes from.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from saelab.core.bytetext import has_parts, plain_text, whole_characters
from saelab.core.errors import UserError
from saelab.explore.material import SaeMaterial

Range = tuple[float | None, float | None]  # both bounds included; None: none
Filter = Range | Collection[str]
KEYS = ("sae", "feature")
INTEREST = "interest"  # an order: live before dead, then by interpretability where it is known, then by density
CONTEXT, TOKEN, DESCRIPTION = 1, 2, 3  # where a word stands; 0: nowhere
REMEMBERED = 64  # words of an SAE whose features are remembered


@dataclass(frozen=True)
class Page:
    """Some rows of a search, and how many there are in all."""

    rows: list[dict[str, Any]]
    total: int


@dataclass
class _Words:
    """What can be searched of one SAE: a line of words per feature, and its contexts as places of a text.

    described, tokens: lines in lower case. text: joined, in lower case. ends: where each token ends in it. starts,
    stops: places of contexts. owner: feature of each.
    """

    described: pl.Series
    tokens: pl.Series | None = None
    text: str = ""
    ends: Int[np.ndarray, " P"] = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: Int[np.ndarray, " C"] = field(default_factory=lambda: np.zeros(0, np.int64))
    stops: Int[np.ndarray, " C"] = field(default_factory=lambda: np.zeros(0, np.int64))
    owner: Int[np.ndarray, " C"] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        self.holding = lru_cache(maxsize=REMEMBERED)(
            self._holding
        )  # of a page or another order, the words are the same

    def _holding(self, word: str) -> Int[np.ndarray, " F"]:
        """Where of each feature a word in lower case stands, first of all."""
        found = np.zeros(len(self.described), np.int8)
        first, last = self._hits(word)
        if len(first):
            # Of the hits from a place on, the first ends first.
            nearest = np.full(len(self.ends) + 1, len(self.ends), np.int64)
            nearest[first[::-1]] = last[::-1]
            nearest = np.minimum.accumulate(nearest[::-1])[::-1]
            found[self.owner[nearest[self.starts] < self.stops]] = CONTEXT
        for lines, place in ((self.tokens, TOKEN), (self.described, DESCRIPTION)):
            if lines is not None:
                found[lines.str.contains(word, literal=True).fill_null(value=False).to_numpy()] = place
        return found

    def _hits(self, word: str) -> tuple[Int[np.ndarray, " H"], Int[np.ndarray, " H"]]:
        """First and last token of every place where the word stands."""
        at, found = self.text.find(word), list[int]()
        while at >= 0:
            found.append(at)
            at = self.text.find(word, at + 1)
        begins = np.array(found, np.int64)
        first, last = (np.searchsorted(self.ends, begins + k, side="right") for k in (0, len(word) - 1))
        return first, last


class FeatureIndex:
    """A table of features with its search.

    table: columns `sae`, `feature` and whatever measures there are; features of an SAE in order. materials: by SAE,
    what contexts are searched in; of an SAE without one only descriptions are.
    """

    def __init__(
        self, table: pl.DataFrame, materials: Mapping[str, SaeMaterial], about: Mapping[str, str] | None = None
    ):
        if missing := [k for k in KEYS if k not in table.columns]:
            raise UserError(f"A table of features lacks the column {missing[0]}.")
        self.table, self.about = table.fill_nan(None), dict(about or {})
        self._materials = dict(materials)
        self._words: dict[str, _Words] = {}
        self._orders: dict[tuple[str, bool], np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def columns(self) -> list[str]:
        """The columns there are, keys first."""
        return self.table.columns

    @property
    def measures(self) -> list[str]:
        """The columns of numbers by which features can be sorted, filtered and drawn."""
        kinds = zip(self.table.columns, self.table.dtypes, strict=True)
        return [name for name, kind in kinds if kind.is_numeric() and name not in KEYS]

    def search(
        self,
        query: str = "",
        *,
        sort: str | None = None,
        descending: bool = True,
        filters: Mapping[str, Filter] | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> Page:
        """The rows that hold all words of the query and pass all filters, in order of a column; missing values last.

        sort: a column, `INTEREST`, or None for the order of the table. filters: by column, bounds of a number or the
        names that a name may be. Raises `UserError` for a column that is not there.
        """
        self._check([*(filters or {}), *([sort] if sort and sort != INTEREST else [])])
        places = self._matching(query)
        keep = places > 0
        for column, wanted in (filters or {}).items():
            keep &= self._passing(column, wanted)
        order = np.arange(len(keep)) if sort is None else self._order(sort, descending=descending)
        at = order[keep[order]]
        if sort == INTEREST:
            at = at[np.argsort(-places[at], kind="stable")]
        shown = self.table[at[offset : offset + limit]]
        return Page(shown.to_dicts(), len(at))

    def in_order(self, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """All rows in falling order of a column or of `INTEREST`, each with its place in the table."""
        order = self._order(column, descending=True)
        yield from zip(order.tolist(), self.table[order].iter_rows(named=True), strict=True)

    def _order(self, column: str, *, descending: bool) -> Int[np.ndarray, " N"]:
        """The rows in order of a column, missing values last; kept, as a list is turned over page by page."""
        with self._lock:
            if (column, descending) not in self._orders:
                self._orders[column, descending] = self._sorted(column, descending=descending)
            return self._orders[column, descending]

    def _sorted(self, column: str, *, descending: bool) -> Int[np.ndarray, " N"]:
        if column == INTEREST:
            known = [c for c in ("interpretability", "density") if c in self.table.columns]
            live = pl.col("state").eq("live") if "state" in self.table.columns else pl.lit(value=True)
            keys = [live.fill_null(value=False), *(pl.col(c).cast(pl.Float64) for c in known)]
            order = pl.arg_sort_by(keys, descending=True, nulls_last=True, maintain_order=True)
            return self.table.select(order.alias("at"))["at"].to_numpy().astype(np.int64)
        values = self.table[column]
        return values.arg_sort(descending=descending, nulls_last=True).to_numpy().astype(np.int64)

    def warm(self) -> None:
        """Prepare what a first search would wait for."""
        for sae in self.table["sae"].unique(maintain_order=True):
            self._words_of(sae)

    def _check(self, names: Iterable[str]) -> None:
        if strange := [name for name in names if name not in self.table.columns]:
            raise UserError(
                f"There is no column {strange[0]} of these features.",
                hint=self.about.get(strange[0], f"There are {', '.join(self.columns)}."),
            )

    def _passing(self, column: str, wanted: Filter) -> Bool[np.ndarray, " N"]:
        values = self.table[column]
        if values.dtype.is_numeric():
            low, high = wanted
            inside = pl.lit(value=True)
            if low is not None:
                inside &= pl.col(column) >= low
            if high is not None:
                inside &= pl.col(column) <= high
            kept = self.table.select((inside & pl.col(column).is_not_null()).alias("kept"))["kept"]
            return kept.fill_null(value=False).to_numpy()
        names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
        return values.cast(pl.String).is_in(names).fill_null(value=False).to_numpy()

    def _matching(self, query: str) -> Int[np.ndarray, " N"]:
        """Where the word of the query stands that is hardest to find; 0: one stands nowhere."""
        words, places = _words_of(query), np.full(self.table.height, DESCRIPTION, np.int8)
        if not words:
            return places
        runs = self.table["sae"].rle_id()
        starts = np.concatenate([[0], np.flatnonzero(np.diff(runs.to_numpy())) + 1, [self.table.height]])
        for start, stop in pairwise(starts.tolist()):
            known = self._words_of(self.table["sae"][start])
            features = self.table["feature"][start:stop].to_numpy()
            for word in words:
                np.minimum(places[start:stop], known.holding(word)[features], out=places[start:stop])
        return places

    def _words_of(self, sae: str) -> _Words:
        with self._lock:
            if sae not in self._words:
                self._words[sae] = self._prepared(sae)
            return self._words[sae]

    def _prepared(self, sae: str) -> _Words:
        if (material := self._materials.get(sae)) is None:
            own = self.table.filter(pl.col("sae") == sae)
            told = pl.col("description") if "description" in own.columns else pl.lit(None, pl.String)
            return _Words(_by_feature(own.select("feature", told.str.to_lowercase().alias("line"))))
        table = material.columns(["feature", "description", "promotes", "suppresses", "starts", "lengths"])
        parts = [pl.col(c).list.join(" ") for c in ("promotes", "suppresses")]
        told = table["description"].str.to_lowercase()
        lines = table.select(pl.concat_str(parts, separator="\n").str.to_lowercase().alias("line"))["line"]
        starts = table["starts"].explode().drop_nulls().to_numpy().astype(np.int64)
        lengths = table["lengths"].explode().drop_nulls().to_numpy().astype(np.int64)
        owner = np.repeat(table["feature"].to_numpy(), table["starts"].list.len().to_numpy())
        tokens = [t.lower() for t in _read_whole(material.text["token"].to_list())]
        ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
        return _Words(told, lines, "".join(tokens), ends, starts, starts + lengths, owner)


def _by_feature(lines: pl.DataFrame) -> pl.Series:
    """The lines by number of feature, where some features have no row."""
    size = int(lines["feature"].to_numpy().max(initial=-1)) + 1
    return pl.DataFrame({"feature": np.arange(size)}).join(lines, on="feature", how="left")["line"]


def _words_of(query: str) -> list[str]:
    query = query.strip().lower()
    if len(query) > 2 and query[0] == query[-1] == '"':
        return [query[1:-1]]
    return list(dict.fromkeys(query.split()))


def _read_whole(tokens: Sequence[str]) -> list[str]:
    """Tokens as they read: the parts of a character stand with the first of them."""
    found = list(tokens)
    run: list[int] = []
    for i, token in enumerate([*tokens, ""]):
        if has_parts(token):
            run.append(i)
            continue
        for group in whole_characters([tokens[k] for k in run]):
            first = run[group.start]
            found[first] = plain_text([tokens[run[k]] for k in group])
            for k in group[1:]:
                found[run[k]] = ""
        run = []
    return found
