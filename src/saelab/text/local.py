"""Texts in files: .txt and .md, .jsonl, .csv and .parquet, each also as .zst or .gz; every text comes with a row name.

A table's row is a document. What one of a .txt or .md file is, the asker says: by default passages, its paragraphs
(parted by blank lines) gathered to at least `PASSAGE` characters, because one file may be a whole corpus and held-out
splits need documents; a paragraph of more than two passages is parted at its line ends, a line at the ends of its
sentences. A byte-order mark is no text. Nothing here shuffles, drops or tokenises.
"""

import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import polars as pl

from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.text.unpack import PACKED, open_unpacked

PASSAGE = 2_000
SUFFIXES = (".txt", ".md", ".jsonl", ".csv", ".parquet")
COLUMNS = ("text", "content", "prompt")
SLICE = 20_000

Rows = Iterator[tuple[str, str]]
Documents = Literal["blank_lines", "lines", "file"]
# Where a line may be parted: after a sentence, in scripts with and without blanks, else at a blank.
_ENDS = re.compile(r"[.!?…](?=\s)|[。！？]")


def text_files(path: Path) -> list[tuple[str, Path]]:
    """The readable files at a path with their short names (relative, without suffixes), in name order.

    A folder is searched through; files of other kinds in it are passed over. A path without any is a `UserError`.
    """
    if path.is_file():
        found = [(_stem(path.name), path)]
    else:
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        found = [(_stem(p.relative_to(path).as_posix()), p) for p in inside]
    readable = [(name, p) for name, p in found if _kind(p) in SUFFIXES]
    if not readable:
        raise UserError(
            f"There is no text at {path}.",
            hint=f"Give a file or folder of {', '.join(SUFFIXES)} (each also with {' or '.join(PACKED)}).",
        )
    return readable


def read_rows(path: Path, column: str | None = None, documents: Documents = "blank_lines") -> Rows:
    """The texts of a file with their names inside it (row number, or passage number), in file order; nulls left out.

    column: the text column of a table; None takes the first of text, content, prompt that is there. documents: what one
    of a .txt or .md file is: passages of paragraphs, each line that is not blank, or the file. Raises `UserError`
    for a column that is not there and `ArtefactError` for a file that cannot be read, naming it.
    """
    kind = _kind(path)
    try:
        if kind in (".txt", ".md"):
            yield from _documents(_whole(path).decode("utf-8-sig"), documents)
        elif kind == ".jsonl":
            yield from _json_lines(path, column)
        elif kind == ".csv":
            table = pl.read_csv(io.BytesIO(_whole(path).removeprefix(BOM_UTF8)), infer_schema=False)
            yield from _numbered(table, text_column(table.columns, column, str(path)), 0)
        else:
            yield from _parquet(path, column)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.", hint="Check the file, or leave it out.") from None


def text_column(columns: list[str], asked: str | None, origin: str) -> str:
    """The column to read: the one asked for, else the first usual name that is there."""
    if asked is None:
        asked = next((c for c in COLUMNS if c in columns), None)
    if asked is None:
        raise UserError(f"{origin} has no column {' or '.join(COLUMNS)}.", hint=f"Name one: {', '.join(columns)}.")
    if asked not in columns:
        raise UserError(f"{origin} has no column {asked!r}.", hint=nearest(asked, columns))
    return asked


def text_of(row: dict, column: str | None, origin: str) -> str | None:
    """The text of a row; None for a null, and a `UserError` for anything that is not text."""
    name = text_column(list(row), column, origin)
    if not isinstance(row[name], str | None):
        raise UserError(f"Column {name!r} of {origin} holds {type(row[name]).__name__}, not text.")
    return row[name]


def _json_lines(path: Path, column: str | None) -> Rows:
    with open_unpacked(path) as lines:
        for number, packed in enumerate(lines):
            line = packed.removeprefix(BOM_UTF8) if number == 0 else packed
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ArtefactError(f"{path} line {number + 1} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise ArtefactError(f"{path} line {number + 1} is not an object.")
            text = text_of(row, column, f"{path} line {number + 1}")
            if text is not None:
                yield str(number), text


def _parquet(path: Path, column: str | None) -> Rows:
    """A slice of rows at a time, so that a large file is never held whole."""
    packed = path.suffix in PACKED
    frame = pl.read_parquet(io.BytesIO(_whole(path))).lazy() if packed else pl.scan_parquet(path, glob=False)
    name = text_column(frame.collect_schema().names(), column, str(path))
    start = 0
    while (table := frame.select(name).slice(start, SLICE).collect()).height:
        yield from _numbered(table, name, start)
        start += SLICE


def _numbered(table: pl.DataFrame, column: str, start: int) -> Rows:
    if table[column].dtype != pl.String:
        raise UserError(f"Column {column!r} holds {table[column].dtype}, not text.")
    return ((str(start + i), text) for i, text in enumerate(table[column].to_list()) if text is not None)


def _documents(text: str, documents: Documents) -> Rows:
    if documents == "file":
        return iter([("0", text)])
    found = (line for line in text.splitlines() if line.strip()) if documents == "lines" else _passages(text)
    return ((str(number), document) for number, document in enumerate(found))


def _passages(text: str) -> Iterator[str]:
    held: list[str] = []
    for paragraph in _paragraphs(text):
        for piece in _pieces(paragraph):
            held.append(piece)
            if sum(map(len, held)) >= PASSAGE:
                yield "\n\n".join(held)
                held = []
    if held:
        yield "\n\n".join(held)


def _pieces(paragraph: str) -> Iterator[str]:
    """A paragraph, parted where it is longer than two passages: at line ends, in a line after a sentence or a blank."""
    start = 0
    while len(paragraph) - start > 2 * PASSAGE:
        near = paragraph[start + PASSAGE : start + 2 * PASSAGE]
        sentence = _ENDS.search(near)
        ends = [near.find("\n") + 1, sentence.end() if sentence else 0, near.find(" ") + 1]
        end = start + PASSAGE + next((e for e in ends if e > 0), 0)
        yield paragraph[start:end].strip()
        start = end
    yield paragraph[start:].lstrip() if start else paragraph


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []


def _whole(path: Path) -> bytes:
    with open_unpacked(path) as handle:
        return handle.read()


def _kind(path: Path) -> str:
    name = path.name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def _stem(name: str) -> str:
    lower = name.lower()
    for suffix in PACKED:
        lower = lower.removesuffix(suffix)
    kept = name[: len(lower)]
    return kept[: -len(Path(kept).suffix)] if Path(kept).suffix else kept
