"""Texts with class labels, and the binary tasks made of them; the data of probing, SCR and TPP.

Sources: sets embedded in the PyPI wheel sae-probes 0.4.2 (any of its 155 by file name; `GROUPS` and `CROSSED` join
several of them), or a local table with columns text, label and, for SCR, attribute. Every draw has a generator of its
own named by (seed, dataset, class), so every SAE sees the same texts whatever was run before it; upstream draws from
the global state (recorded as a deviation).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from saelab.core.errors import UserError, nearest
from saelab.core.seeds import numpy_generator
from saelab.interp.suite.probes import Split
from saelab.store.references import fetch, parse_reference
from saelab.store.tables import plain
from saelab.text.embedded import EMBEDDED
from saelab.text.unpack import open_unpacked

# Groups of embedded sets that make one data set of several classes: class name -> (file, value of `target`).
GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "ag_news": {"world": ("161_agnews_0", "1"), "sports": ("162_agnews_1", "1"), "business": ("163_agnews_2", "1")},
    "news_class": {
        "politics": ("139_news_class_Politics", "1"),
        "technology": ("140_news_class_Technology", "1"),
        "entertainment": ("141_news_class_Entertainment", "1"),
    },
    "code_language": {"C": ("158_code_C", "1"), "Python": ("159_code_Python", "1"), "HTML": ("160_code_HTML", "1")},
}


# Pairs of embedded sets that label the same texts twice: name -> (file of the label, file of the attribute).
CROSSED: Mapping[str, tuple[str, str]] = {
    "alive_sex": ("57_wikidatais_alive", "56_wikidatasex_or_gender"),
    "singer_sex": ("63_wikidata_occupation_issinger", "56_wikidatasex_or_gender"),
    "politician_sex": ("62_wikidata_occupation_ispolitician", "56_wikidatasex_or_gender"),
    "actor_sex": ("61_wikidata_occupation_isactor", "56_wikidatasex_or_gender"),
}


@dataclass(frozen=True)
class LabelledData:
    """Texts with a label each, and a second attribute where there is one (SCR)."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    attributes: tuple[str, ...] | None = None

    @property
    def classes(self) -> list[str]:
        """The labels, most frequent first, ties by name."""
        values, counts = np.unique(np.array(self.labels), return_counts=True)
        return [str(v) for v in values[np.lexsort((values, -counts))]]

    def rows(self, label: str, attribute: str | None = None) -> Int[np.ndarray, " N"]:
        """Rows of a class (and attribute)."""
        keep = np.array(self.labels) == label
        if attribute is not None:
            if self.attributes is None:
                raise UserError(f"{self.name} has no second attribute.", hint="Give a table with a column attribute.")
            keep &= np.array(self.attributes) == attribute
        return np.flatnonzero(keep)

    def take(self, rows: Sequence[int]) -> "LabelledData":
        """The given rows, in the given order."""
        attributes = None if self.attributes is None else tuple(self.attributes[i] for i in rows)
        return LabelledData(
            self.name, tuple(self.texts[i] for i in rows), tuple(self.labels[i] for i in rows), attributes
        )


def load_labelled(name: str) -> LabelledData:
    """An embedded set, group or crossed pair by name, or `path:file.csv` with text, label[, attribute]."""
    if name.startswith("path:"):
        path = fetch(name)
        return labelled_table(_table(path), path.name)
    if name in GROUPS:
        parts = [(label, _embedded(file, value)) for label, (file, value) in GROUPS[name].items()]
        texts = [text for _, found in parts for text in found]
        labels = [label for label, found in parts for _ in found]
        return LabelledData(name, tuple(texts), tuple(labels))
    if name in CROSSED:
        label, attribute = (_embedded_table(file) for file in CROSSED[name])
        table = label.join(attribute, on="prompt", suffix="_2", maintain_order="left")
        columns = [tuple(table[c].to_list()) for c in ("prompt", "target", "target_2")]
        return LabelledData(name, *columns)
    table = _embedded_table(name)
    return LabelledData(name, tuple(table["prompt"].to_list()), tuple(table["target"].to_list()))


def binary_sets() -> tuple[str, ...]:
    """File names of the embedded sets that the wheel's own list calls binary."""
    folder = fetch(parse_reference(EMBEDDED))
    with open_unpacked(folder.parent / "probing_datasets_MASTER.csv.zst") as handle:
        table = pl.read_csv(io.BytesIO(handle.read()), infer_schema=False)
    names = table.filter(pl.col("Data type") == "Binary Classification")["Dataset save name"]
    return tuple(name.rpartition("/")[2].removesuffix(".csv") for name in names)


def labelled_table(table: pl.DataFrame, name: str) -> LabelledData:
    """Labelled texts from a table with columns text, label and perhaps attribute."""
    for column in ("text", "label"):
        if column not in table.columns:
            raise UserError(f"{name} has no column {column!r}; it has {', '.join(table.columns)}.")
    table = table.drop_nulls(["text", "label"])
    attributes = tuple(map(str, table["attribute"].to_list())) if "attribute" in table.columns else None
    return LabelledData(
        name, tuple(map(str, table["text"].to_list())), tuple(map(str, table["label"].to_list())), attributes
    )


@dataclass(frozen=True)
class OneVsRest:
    """One-against-rest: is the text of this class? Row numbers are into the data set's texts."""

    label: str
    split: Split


def one_against_rest(data: LabelledData, n_train: int, n_test: int, seed: int) -> tuple[LabelledData, list[OneVsRest]]:
    """A balanced task for each class that has `n_train + n_test` texts, over the texts that the tasks use.

    Positives: texts of the class. Negatives: as many, drawn evenly from the other classes. A data set of two classes
    gives one task (the other is its mirror). Train and test texts are disjoint over all tasks.
    """
    classes = [c for c in data.classes if len(data.rows(c)) >= n_train + n_test]
    if len(classes) < 2:
        raise UserError(
            f"{data.name} has fewer than two classes of {n_train + n_test} texts.",
            hint="Give more texts, or ask for smaller train and test sets.",
        )
    chosen: list[int] = []
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for label in classes:
        drawn = numpy_generator(seed, "texts", data.name, label).permutation(data.rows(label))[: n_train + n_test]
        start = len(chosen)
        chosen += drawn.tolist()
        parts[label] = (np.arange(start, start + n_train), np.arange(start + n_train, start + n_train + n_test))
    tasks = []
    for label in classes[:1] if len(classes) == 2 else classes:
        generator = numpy_generator(seed, "task", data.name, label)
        halves = []
        for side in (0, 1):
            positive = parts[label][side]
            others = [c for c in classes if c != label]
            share = -(-len(positive) // len(others))
            negative = np.concatenate([generator.permutation(parts[c][side])[:share] for c in others])
            negative = generator.permutation(negative)[: len(positive)]
            rows = np.concatenate([positive, negative])
            halves += [rows, np.arange(len(rows)) < len(positive)]
        tasks.append(OneVsRest(label, Split(*halves)))
    return data.take(chosen), tasks


def _table(path: Path) -> pl.DataFrame:
    readers = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}
    if path.suffix not in readers:
        raise UserError(f"{path} is not a labelled table.", hint=f"Give one of {', '.join(readers)}.")
    return plain(readers[path.suffix])(path)


def _embedded(name: str, target: str) -> list[str]:
    table = _embedded_table(name)
    return table.filter(pl.col("target") == target)["prompt"].to_list()


def _embedded_table(name: str) -> pl.DataFrame:
    folder = fetch(parse_reference(EMBEDDED))
    path = folder / f"{name}.csv.zst"
    if not path.exists():
        known = [*GROUPS, *CROSSED, *sorted(p.name.removesuffix(".csv.zst") for p in folder.glob("*.csv.zst"))]
        raise UserError(f"There is no labelled set {name!r}.", hint=nearest(name, known))
    with open_unpacked(path) as handle:
        table = pl.read_csv(io.BytesIO(handle.read()), infer_schema=False)
    return table.select("prompt", "target").drop_nulls().unique("prompt", keep="first", maintain_order=True)
