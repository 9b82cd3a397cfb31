"""AxBench's files (arXiv 2501.17148, Apache-2.0 data), read and written; nothing of its code.

Read: `metadata.jsonl` (one concept a line), `train_data*.parquet` and `latent_eval_data*.parquet`, beside each other or
in the benchmark's `generate/` and `inference/`. A concept is trained on its own positives and on the negatives of its
genre that all concepts share (`concept_id` -1); it is detected on its own rows of the evaluation file, hard negatives
included. Written on request: the benchmark's wide `steering_data` table, from long rows, one column set per method.

Knows no language model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.steering.concepts.examples import Pair
from saelab.store.tables import read_table

SHARED = -1  # the `concept_id` of negatives that belong to a genre, not to a concept
COLUMNS = ("input", "output", "concept_genre", "category", "concept_id")


@dataclass(frozen=True)
class Concept:
    """One concept: its number, its sentence, the genre of its instructions, and where its description came from.

    latent: the index of the SAE feature whose published description the sentence is, if there is one.
    """

    id: int
    text: str
    genre: str
    latent: int | None
    link: str | None = None


@dataclass(frozen=True)
class AxBenchTexts:
    """Instruction and answer of each text, and what it is: "positive", "negative" or "hard negative"."""

    pairs: tuple[Pair, ...]
    kinds: tuple[str, ...]

    def first(self, n: int) -> "AxBenchTexts":
        """At most `n` texts of each kind: the first ones."""
        kept = [i for i, kind in enumerate(self.kinds) if self.kinds[:i].count(kind) < n]
        return AxBenchTexts(tuple(self.pairs[i] for i in kept), tuple(self.kinds[i] for i in kept))


@dataclass(frozen=True)
class AxBench:
    """One setting's folder of the benchmark. Each of its files is read when first asked for, and once."""

    folder: Path

    @cached_property
    def concepts(self) -> list[Concept]:
        """The concepts in the file's order. Raises `UserError` (no file) and `ArtefactError` (broken line)."""
        path = _find(self.folder, "generate", "metadata.jsonl")[0]
        concepts = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                concepts.append(_concept(json.loads(line)))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ArtefactError(f"Line {number} of {path} is not a concept: {error!r}.") from None
        return concepts

    def training(self, concept: Concept) -> AxBenchTexts:
        """The concept's positives, then the shared negatives of its genre. No texts at all are an `ArtefactError`."""
        table = self._training
        mine = (pl.col("concept_id") == concept.id) & (pl.col("category") == "positive")
        shared = (pl.col("concept_id") == SHARED) & (pl.col("category") == "negative")
        rows = [table.filter(mine), table.filter(shared & (pl.col("concept_genre") == concept.genre))]
        return _texts(pl.concat(rows), concept, "training")

    def detection(self, concept: Concept) -> AxBenchTexts:
        """The concept's evaluation texts, in the file's order. No texts at all are an `ArtefactError`."""
        return _texts(self._detection.filter(pl.col("concept_id") == concept.id), concept, "detection")

    @cached_property
    def _training(self) -> pl.DataFrame:
        return _read(self.folder, "generate", "train_data")

    @cached_property
    def _detection(self) -> pl.DataFrame:
        return _read(self.folder, "inference", "latent_eval_data")


@dataclass(frozen=True)
class Wide:
    """What the wide table holds beyond the long one.

    names: saelab's method to AxBench's prefix of columns. prompts: by concept, the text put before the instruction
    (`steered_input`). perplexity: by generation; null where it was not measured.
    """

    names: Mapping[str, str]
    prompts: Mapping[int, str] = field(default_factory=dict)
    perplexity: Mapping[str, float] = field(default_factory=dict)
    dataset_name: str = "AlpacaEval"


def wide_table(generations: pl.DataFrame, concepts: Sequence[Concept], wide: Wide | Mapping[str, str]) -> pl.DataFrame:
    """AxBench's `steering_data` from a long table of generations (evaluate.py), one row per concept, input and factor.

    A method without a factor (prompting) stands in every row of its concept and input, as AxBench has it. Instructions
    are renumbered from 0. Cells that were not written (a factor that dev did not choose, on test) are null.
    """
    wide = wide if isinstance(wide, Wide) else Wide(wide)
    table = generations.filter(pl.col("method").is_in(list(wide.names)))
    number = {old: new for new, old in enumerate(table["instruction_id"].unique().sort().to_list())}
    by_id = {c.id: c for c in concepts}
    cells: dict[tuple[int, int, float], dict[str, dict[str, Any]]] = {}
    constant = table.filter(pl.col("factor") == 0)
    for row in table.filter(pl.col("factor") != 0).iter_rows(named=True):
        cells.setdefault((row["feature"], row["instruction_id"], row["factor"]), {})[row["method"]] = row
    for row in constant.iter_rows(named=True):
        place = (row["feature"], row["instruction_id"])
        for key in [k for k in cells if k[:2] == place] or [(*place, 0.0)]:
            cells.setdefault(key, {})[row["method"]] = row
    rows = []
    for (feature, instruction, factor), written in sorted(cells.items()):
        concept, asked = by_id[feature], next(iter(written.values()))["instruction"]
        prompt = wide.prompts.get(feature)
        row = {
            "dataset_name": wide.dataset_name, "concept_id": feature, "input_concept": concept.text,
            "input_id": number[instruction], "factor": factor, "original_prompt": asked,
            "steered_input": asked if prompt is None else f" {prompt}\n\nQuestion: {asked}",
            "input": asked, "sae_link": concept.link, "sae_id": concept.latent,
        }  # fmt: skip
        for method, name in wide.names.items():
            found = written.get(method, {})
            row[f"{name}_steered_generation"] = found.get("text")
            row[f"{name}_perplexity"] = wide.perplexity.get(found.get("generation", ""))
            row[f"{name}_strength"] = found.get("strength")
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _concept(record: dict[str, Any]) -> Concept:
    text, link = str(record["concept"]), record.get("ref")
    known = link if link and link != "null" else None
    tail = str(known).rstrip("/").rsplit("/", 1)[-1] if known else ""
    genre = record["concept_genres_map"][text][0]
    return Concept(int(record["concept_id"]), text, str(genre), int(tail) if tail.isdigit() else None, known)


def _read(folder: Path, inside: str, name: str) -> pl.DataFrame:
    return pl.concat([read_table(p, COLUMNS).select(COLUMNS) for p in _find(folder, inside, f"{name}*.parquet")])


def _texts(rows: pl.DataFrame, concept: Concept, use: str) -> AxBenchTexts:
    if not rows.height:
        raise ArtefactError(f"There are no texts for the {use} of concept {concept.id} ({concept.text!r}).")
    pairs = tuple(Pair(asked, answer) for asked, answer in rows.select("input", "output").iter_rows())
    return AxBenchTexts(pairs, tuple(rows["category"].to_list()))


def _find(folder: Path, inside: str, pattern: str) -> list[Path]:
    for place in (folder, folder / inside):
        if found := sorted(place.glob(pattern)):
            return found
    raise UserError(
        f"There is no {pattern} in {folder} or {folder / inside}.", hint="Give a folder of AxBench's data, one setting."
    )
