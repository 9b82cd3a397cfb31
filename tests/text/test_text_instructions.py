"""Instructions: forty shipped, AlpacaEval read, and a file that is none of that refused."""

import json
from pathlib import Path

import pytest

from saelab.core.errors import ArtefactError, UserError
from saelab.text.instructions import load_instructions

ALPACA = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval_instructions.json"


def test_forty_plain_ones_are_shipped() -> None:
    found = load_instructions()
    assert len(found) == len(set(found)) == 40
    assert all(20 <= len(text) <= 90 and text[-1] in ".?" for text in found)
    assert found == load_instructions(None)


def test_files_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "One.", "dataset": "x"}, {"instruction": " Two. "}]))
    (tmp_path / "b.json").write_text(json.dumps(["One.", "Two."]))
    (tmp_path / "c.txt").write_text("One.\n\nTwo.\n")
    for name in "a.json", "b.json", "c.txt":
        assert load_instructions(tmp_path / name) == ["One.", "Two."]


def test_alpaca_eval_is_read() -> None:
    if not ALPACA.exists():
        pytest.skip("the real AlpacaEval file is not at ../shared/data")
    found = load_instructions(ALPACA)
    assert len(found) == 805
    assert all(isinstance(text, str) and text for text in found)


def test_bad_files_get_a_sentence(tmp_path: Path) -> None:
    for text in ('{"instruction": "One."}', '[{"prompt": "One."}]', "[1]", '[""]'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match="not a list of instructions"):
            load_instructions(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        load_instructions(tmp_path / "a.json")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no instruction"):
        load_instructions(tmp_path / "empty.txt")
    with pytest.raises(UserError, match="no file"):
        load_instructions(tmp_path / "absent.txt")
