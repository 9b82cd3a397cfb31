"""The base of every config: frozen, unknown keys refused, YAML in and out, a digest that names it.

Two configs with the same digest describe the same work: artefact keys are built from it. Configs hold plain values
only (numbers, strings, lists, nested configs), never tensors or open files.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from saelab.core.errors import UserError, nearest

# Not typing.Self: beartype, which checks annotations under test, takes it on classes only.
C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Fault:
    """What is wrong with one key of a config: where it stands (keys and numbers of list items), and a sentence."""

    where: tuple[str | int, ...]
    what: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.where))}: {self.what}" if self.where else self.what


class Faults(ValueError):
    """What a validator raises that finds several keys at fault, or a key below its own."""

    def __init__(self, found: Sequence[Fault]):
        super().__init__("; ".join(map(str, found)))
        self.found = tuple(found)


class Config(BaseModel):
    """A small frozen record of settings. Subclass it once per stage; give every field a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """sha256 (hex) of the config as canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """The config as YAML, in field order."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def parse(cls: type[C], data: object, *, origin: str = "config") -> C:
        """Validate plain data; a `UserError` says where it came from and what is wrong with which key."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            said = "; ".join(map(str, faults_in(error, cls)))
            raise UserError(f"{origin} is not a valid {cls.__name__}: {said}") from None

    @classmethod
    def from_yaml(cls: type[C], path: str | Path) -> C:
        """Read and validate a YAML file."""
        return cls.parse(read_yaml(path), origin=str(path))


def read_yaml(path: str | Path) -> Any:
    """The plain data of a YAML file; a missing or broken one is a `UserError`."""
    path = Path(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.", hint="Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


def digest_of(data: Any) -> str:
    """sha256 (hex) of JSON-able data with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def faults_in(error: ValidationError, cls: type[BaseModel]) -> list[Fault]:
    """What pydantic found wrong, each with its key; an unknown key with the nearest known ones."""
    found: list[Fault] = []
    unions: set[tuple[str | int, ...]] = set()
    places = [item["loc"] for item in error.errors()]
    for item in error.errors():
        loc, cause = item["loc"], item.get("ctx", {}).get("error")
        if (where := _without_members(cls, loc)) != loc:
            unions.add(where)
        if item["type"] == "too_short" and any(p[: len(loc)] == loc != p for p in places):
            continue  # it is short of the items that are said to be wrong
        if isinstance(cause, Faults):
            found += [Fault((*where, *fault.where), fault.what) for fault in cause.found]
        elif item["type"] == "extra_forbidden":
            found.append(Fault(where, f"unknown key {loc[-1]!r}. {nearest(str(loc[-1]), _fields_at(cls, loc[:-1]))}"))
        else:
            said = item["msg"].removeprefix("Value error, ")
            found.append(Fault(where, said.replace("a valid tuple", "a list").replace("Tuple should", "List should")))
    return _one_sentence(found, unions)


def _one_sentence(found: Sequence[Fault], unions: Collection[tuple[str | int, ...]]) -> list[Fault]:
    """Each fault once; what the members of one union ask for is one sentence with alternatives."""
    asked = {where: list(dict.fromkeys(f.what for f in found if f.where == where)) for where in unions}
    start = "Input should be "
    said = {
        where: ", or ".join([first, *(w.removeprefix(start) for w in more)]) for where, (first, *more) in asked.items()
    }
    return list(dict.fromkeys(Fault(f.where, said.get(f.where, f.what)) for f in found))


def _without_members(cls: type[BaseModel], loc: Sequence[int | str]) -> tuple[str | int, ...]:
    """A location without the names of union members, which pydantic puts between the keys."""
    kept: list[str | int] = []
    here: list[Any] = [cls]
    for part in loc:
        several, here = _members(here)
        if several:
            continue  # the name of one of them
        kept.append(part)
        inside: list[Any] = []
        for one in here:
            if isinstance(one, type) and issubclass(one, BaseModel):
                inside += [one.model_fields[str(part)].annotation] if part in one.model_fields else []
            else:
                inside += [a for a in get_args(one) if a is not ...]
        here = inside
    return tuple(kept)


def _members(annotations: Sequence[Any]) -> tuple[bool, list[Any]]:
    """Whether one of these is a union of several types, and all of them with such unions taken apart."""
    found: list[Any] = []
    several = False
    for one in annotations:
        while get_origin(one) is Annotated:
            one = get_args(one)[0]
        if get_origin(one) in (Union, UnionType):
            parts = [a for a in get_args(one) if a is not type(None)]
            several |= len(parts) > 1
            found += parts
        else:
            found.append(one)
    return several, found


def _fields_at(cls: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The field names of the config that a location inside another leads to."""
    for part in loc:
        if part in cls.model_fields:
            cls = _config_in(cls.model_fields[str(part)].annotation) or cls
    return list(cls.model_fields)


def _config_in(annotation: Any) -> type[BaseModel] | None:
    """The config that a field holds, itself or in a tuple or union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _config_in(part)) is not None), None)
