"""The base of every config: frozen, unknown keys refused, YAML in and out, a digest that names it.

Two configs with the same digest describe the same work: artefact keys are built from it. Configs hold plain values
only (numbers, strings, lists, nested configs), never tensors or open files.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from saelab.core.errors import UserError, nearest

# Not typing.Self: beartype, which checks annotations under test, takes it on classes only.
C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """A small frozen record of settings. Subclass it once per stage; give every field a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
            raise UserError(f"{origin} is not a valid {cls.__name__}: {_sentence(error, cls)}") from None

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


def _sentence(error: ValidationError, cls: type[BaseModel]) -> str:
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"]) or "the whole"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key {where!r}. {nearest(str(item['loc'][-1]), _fields_at(cls, item['loc'][:-1]))}")
        else:
            parts.append(f"{where}: {item['msg']}")
    return "; ".join(parts)


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
