"""docs/study-keys.md: every key of a study file, from the configs that read it.

    python tools/study_keys.py docs/study-keys.md

A key's type, default and sentence are those of its field; nothing is written by hand. A key without a sentence stops
the tool.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saelab.core.config import Config
from saelab.saes.catalogue import ARCHITECTURES
from saelab.study.spec import StudyConfig

HEAD = """\
# Every key of a study file

Written by `tools/study_keys.py` from the configs. What the keys do together is in
[study.md](study.md). `*` after a key: it has to be given. In a list (`[]`) each item has the keys
below it. An editor that knows YAML schemas completes and checks keys after

    saelab new --schema > study.schema.json

with `# yaml-language-server: $schema=study.schema.json` as the first line of the study.
"""
AS_JUDGE = "instrument.reader"  # has the keys of `judge`, which are said once
FILLED_IN = "found"  # by saelab, not by hand
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "file", Any: "anything"}


def page() -> str:
    """The page."""
    parts = [HEAD, *_section(StudyConfig, "", "The study")]
    parts += ["\n## Options of a grid\n", "`models[].grids[].options` sets these for the SAEs of the grid.\n"]
    common = set.intersection(*(set(kind.model_fields) for kind in ARCHITECTURES.values()))
    any_kind = next(iter(ARCHITECTURES.values()))
    hidden = {"architecture", "d_in", "d_out", "d_sae", "freeze", "k", "target_l0"}  # said by the grid itself
    parts.append(_table(_rows(any_kind, common - hidden)))
    for name, kind in ARCHITECTURES.items():
        own = set(kind.model_fields) - common - hidden
        differ = {k for k in common - hidden if kind.model_fields[k].default != _base(kind, k).default}
        if own | differ:
            parts.append(f"\nOf `{name}` alone:\n")
            parts.append(_table(_rows(kind, own | differ)))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _section(cls: type[Config], where: str, title: str) -> Iterator[str]:
    """A heading, what the config is, its keys; then the sections of the configs that it holds."""
    yield f"\n## {title}\n"
    yield textwrap.fill(_sentence(cls), 100) + "\n"
    yield _table(_rows(cls, set(cls.model_fields)))
    for name, field in cls.model_fields.items():
        inside = _config_of(field.annotation)
        place = f"{where}{name}{'[]' if _is_list(field.annotation) else ''}"
        if inside is None or name == FILLED_IN or place == AS_JUDGE:
            continue
        yield from _section(inside, f"{place}.", f"`{place}`")


def _rows(cls: type[BaseModel], names: set[str]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in cls.model_fields.items():
        if name in names and name != FILLED_IN:
            inside = _config_of(field.annotation)
            said = field.description or _base(cls, name).description or (inside and _sentence(inside))
            if not said:
                raise SystemExit(f"{cls.__name__}.{name} has no sentence.")
            yield (
                f"`{name}`" + ("*" if field.is_required() else ""),
                _type(field.annotation) + _bounds(field),
                _default(field),
                said,
            )


def _bounds(field: FieldInfo) -> str:
    """What a number must be at least, more than, at most and less than."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(f", {s} {getattr(m, k):g}" for m in field.metadata for k, s in signs.items() if hasattr(m, k))


def _base(cls: type[BaseModel], name: str) -> FieldInfo:
    """The field as the first class of the family has it: a subclass that changes a default says nothing anew."""
    return [c.model_fields[name] for c in cls.__mro__ if issubclass(c, BaseModel) and name in c.model_fields][-1]


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    body = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)
    return "| key | value | default | what it is |\n|---|---|---|---|\n" + body


def _sentence(cls: type[Config]) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _plain(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _members(kind: Any) -> list[Any]:
    """The types of a union; one type alone otherwise."""
    kind = _plain(kind)
    return [_plain(a) for a in get_args(kind)] if get_origin(kind) in (Union, UnionType) else [kind]


def _type(kind: Any) -> str:
    """A type as the writer of a YAML file reads it."""
    said = [_one(member) for member in _members(kind) if member is not type(None)]
    return ", or ".join(dict.fromkeys(said))


def _one(kind: Any) -> str:
    if kind in PLAIN:
        return PLAIN[kind]
    origin, inside = get_origin(kind), [a for a in get_args(kind) if a is not ...]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin is dict:
        return "mapping"
    if origin is tuple and _config_of(inside[0]) is not None:
        return "list of mappings"
    if origin is tuple:
        return f"{len(inside)} numbers" if len(inside) > 1 else f"list of: {_type(inside[0])}"
    if isinstance(kind, type) and issubclass(kind, Config):
        return "mapping"
    raise SystemExit(f"No words for {kind}.")


def _config_of(kind: Any) -> type[Config] | None:
    """The config that a key holds, alone or in a list."""
    for member in _members(kind):
        if isinstance(member, type) and issubclass(member, Config):
            return member
        if get_origin(member) is tuple and (found := _config_of(get_args(member)[0])) is not None:
            return found
    return None


def _is_list(kind: Any) -> bool:
    return any(get_origin(member) is tuple for member in _members(kind))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, Config):
        return "as below"
    if isinstance(value, tuple):
        value = [v.model_dump(mode="json", exclude_none=True) if isinstance(v, Config) else v for v in value]
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value not in ([], {}) else ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
