"""The instructions that a steered model is asked to follow: forty plain ones, or a file such as AlpacaEval.

An instruction is one request that a short text can answer. Their order is fixed, so an index names one. Nothing here
knows how they are judged or split.
"""

import json
from importlib import resources
from pathlib import Path

from saelab.core.errors import ArtefactError, UserError

SHIPPED = "instructions.txt"


def load_instructions(path: str | Path | None = None) -> list[str]:
    """The instructions of a file in order; None loads the forty that are shipped.

    A `.json` file is a list of strings, or of objects with an `instruction` (AlpacaEval); any other file has one
    instruction a line. Raises `UserError` for a file that is missing or holds none, `ArtefactError` for a broken one.
    """
    if path is None:
        return _lines(resources.files("saelab.text").joinpath(SHIPPED).read_text(encoding="utf-8"))
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.", hint="Check the path of the instructions.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.") from None
    found = _json(path, text) if path.suffix == ".json" else _lines(text)
    if not found:
        raise UserError(f"{path} holds no instruction.")
    return found


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _json(path: Path, text: str) -> list[str]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtefactError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(items, list):
        items = [None]
    found = [item.get("instruction") if isinstance(item, dict) else item for item in items]
    texts = [text.strip() for text in found if isinstance(text, str) and text.strip()]
    if len(texts) < len(found):
        raise UserError(f"{path} is not a list of instructions.", hint='Each item is text or has an "instruction".')
    return texts
