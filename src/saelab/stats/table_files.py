"""Tables as people have them, as frames: CSV of any separator, JSON, JSON lines, Parquet, compressed or not; SAEBench.

Every cell of a text is read as text first, so that no column's type depends on its first rows; a column is numbers
where all that is there is a number. `NA` in every spelling is missing. A row of another length, a column or key named
twice and a text that is no number are errors that name the row. Nothing here computes a statistic.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.store.tables import read_table

OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TEXTS = (".csv", ".tsv", ".txt")
KINDS = (*TEXTS, ".json", ".jsonl", ".ndjson", ".parquet")
MOST_BYTES = 1 << 28  # of text after decompression
MISSING = frozenset(
    ["", "na", "n/a", "#n/a", "nan", "-nan", "<na>", "none", "null", "nil", "missing", "-", "--", "–", "—", ".", "?"]
)
SEPARATORS = (",", ";", "\t", "|")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
INFINITE = frozenset(sign + word for sign in ("", "+", "-") for word in ("inf", "infinity"))


def open_table(path: Path) -> pl.DataFrame:
    """Read .csv, .tsv, .txt, .json, .jsonl, .ndjson (each also .gz, .bz2, .xz) or .parquet.

    The separator of a text is the one of comma, semicolon, tab and bar that its header has most of; beside semicolons a
    comma is a decimal point. JSON is a list of objects, an object of columns, or one of either under a single name;
    objects inside objects become columns named `outer.inner`. Raises `UserError` or `ArtefactError` with the row.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.", hint="Check the path.")
    endings = [s.lower() for s in path.suffixes[-2:]]
    packed = endings.pop() if endings and endings[-1] in OPENERS else None
    kind = endings[-1] if endings else ""
    if kind not in KINDS or (packed and kind == ".parquet"):
        raise UserError(f"{path.name} is not a table saelab reads.", hint=f"Give one of {', '.join(KINDS)}.")
    if kind == ".parquet":
        return read_table(path)
    text = _text(path, packed)
    try:
        return _from_text(text) if kind in TEXTS else _from_json(text, lines=kind != ".json")
    except ValueError as error:
        raise ArtefactError(f"{path} is not a readable {kind[1:]} table: {error}.") from None


def saebench_table(folder: Path) -> pl.DataFrame:
    """One row per SAE from SAEBench's result files anywhere under a folder.

    Columns: sae (release and id), lm, architecture, layer, width (each null where a file does not say, left out where
    none does), and a number per metric, named `evaluation.metric`, with its category between where two have the metric.
    Other JSON files are passed over. Raises `UserError` where there is no result, or where one SAE has two files of one
    evaluation.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    source: dict[tuple[str, str, str], Path] = {}
    for path in sorted(folder.rglob("*.json")):
        record = _result(path)
        if record is None:
            continue
        evaluation = str(record["eval_type_id"])
        config, about = (cast(dict[str, Any], record.get(k) or {}) for k in ("eval_config", "sae_cfg_dict"))
        named = [record.get(k) for k in ("sae_lens_release_id", "sae_lens_id")]
        sae = " / ".join(str(n) for n in named if n and n != "custom_sae") or path.stem.removesuffix("_eval_results")
        lm = str(config.get("model_name") or about.get("model_name") or "")
        if (first := source.setdefault((sae, lm, evaluation), path)) != path:
            raise UserError(
                f"{sae} has two {evaluation} results: {first.relative_to(folder)} and {path.relative_to(folder)}.",
                hint="Give the folder of one run.",
            )
        row = found.setdefault((sae, lm), {"sae": sae, "lm": lm or None})
        about = cast(dict[str, Any], about.get("metadata") or {}) | about
        for name, key in (("architecture", "architecture"), ("layer", "hook_layer"), ("width", "d_sae")):
            row[name] = row.get(name) if about.get(key) is None else about[key]
        row |= _metrics(evaluation, record["eval_result_metrics"])
    if not found:
        raise UserError(
            f"{folder} holds no SAEBench results.", hint="Give the folder of its *_eval_results.json files."
        )
    table = _from_rows(list(found.values()))
    return table.select(c for c in table.columns if table[c].null_count() < table.height)


def _result(path: Path) -> dict[str, Any] | None:
    """A result file of SAEBench; None for any other JSON."""
    try:
        record = json.loads(_text(path, None))
    except ValueError:
        return None
    ours = isinstance(record, dict) and {"eval_type_id", "eval_result_metrics"} <= set(cast(dict[str, Any], record))
    return cast(dict[str, Any], record) if ours else None


def _metrics(evaluation: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = [m for part in metrics.values() for m in part]
    return {
        f"{evaluation}.{m}" if names.count(m) == 1 else f"{evaluation}.{category}.{m}": v
        for category, part in metrics.items()
        for m, v in part.items()
    }


def _text(path: Path, packed: str | None) -> str:
    opened = OPENERS[packed](path) if packed else path.open("rb")
    try:
        with opened as file:
            data: bytes = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ArtefactError(f"{path} cannot be unpacked: {error}.") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path} is more than {MOST_BYTES >> 20} MB of text.", hint="Keep the columns that matter.")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path} is not text in UTF-8: {error}.") from None


def _from_text(text: str) -> pl.DataFrame:
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=lambda s: len(next(iter(csv.reader([first], delimiter=s)))) if first else 0)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError("it has no header")
    header = [name.strip() or f"column {i + 1}" for i, name in enumerate(rows[0])]
    _refuse_twice(header)
    for i, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise ValueError(f"row {i + 1} has {len(row)} cells and the header {len(header)}")
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}
    return pl.DataFrame([_typed(name, cells, decimal_comma=separator == ";") for name, cells in columns.items()])


def _from_json(text: str, *, lines: bool) -> pl.DataFrame:
    if lines:
        objects: list[Any] = []
        for i, line in enumerate(text.splitlines()):
            if line.strip():
                try:
                    objects.append(json.loads(line, object_pairs_hook=_pairs))
                except ValueError as error:
                    raise ValueError(f"line {i + 1}: {error}") from None
        return _from_rows(objects)
    found: Any = json.loads(text, object_pairs_hook=_pairs)
    columns = cast(dict[str, Any], found) if isinstance(found, dict) else {}
    alone = list(columns.values())
    if len(alone) == 1 and isinstance(alone[0], dict):
        columns = cast(dict[str, Any], alone[0])
    rows = cast(Any, alone[0] if len(alone) == 1 and _objects(alone[0]) else found)
    if _objects(rows):
        return _from_rows(rows)
    if columns and all(isinstance(v, list) for v in columns.values()):
        if len({len(v) for v in columns.values()}) > 1:
            raise ValueError("its columns are of different lengths")
        return pl.DataFrame([_typed(name, cells) for name, cells in columns.items()])
    raise ValueError("it is neither a list of objects nor an object of columns")


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in cast(list[Any], value))


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs])
    return dict(pairs)


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is the name of two columns")


def _from_rows(rows: Sequence[Any]) -> pl.DataFrame:
    """Rows as objects; what an object lacks is missing."""
    flat: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {i + 1} is no object")
        flat.append(dict(_flat(cast(dict[str, Any], row))))
    names = list(dict.fromkeys(name for row in flat for name in row))
    return pl.DataFrame([_typed(name, [row.get(name) for row in flat]) for name in names])


def _flat(row: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Columns of an object: objects inside it by their path, lists left out."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(cast(dict[str, Any], value), f"{before}{name}.")
        elif not isinstance(value, list):
            yield f"{before}{name}", value


def _typed(name: str, cells: Sequence[Any], *, decimal_comma: bool = False) -> pl.Series:
    """A column as whole numbers, numbers, truth values or text, whichever all of its cells are."""
    texts = [None if c is None else str(c).strip() for c in cells]
    texts = [None if t is None or t.lower() in MISSING else t for t in texts]
    known = [t for t in texts if t is not None]
    if decimal_comma and any(COMMA.fullmatch(t) for t in known) and not any("." in t for t in known):
        texts = [None if t is None else t.replace(",", ".") for t in texts]
        known = [t for t in texts if t is not None]
    if known and all(t.lower() in ("true", "false") for t in known):
        return pl.Series(name, [None if t is None else t.lower() == "true" for t in texts], dtype=pl.Boolean)
    if known and all(WHOLE.fullmatch(t) for t in known):
        return pl.Series(name, [None if t is None else int(t) for t in texts], dtype=pl.Int64)
    if all(is_number(t) for t in known) and not any(re.fullmatch(r"0\d+", t) for t in known):
        return pl.Series(name, [None if t is None else float(t) for t in texts], dtype=pl.Float64)
    return pl.Series(name, texts, dtype=pl.String)


def is_number(text: str) -> bool:
    """Whether a cell is a number; an infinite one is, and counts as missing later."""
    return (bool(NUMBER.fullmatch(text)) and math.isfinite(float(text))) or text.lower() in INFINITE
