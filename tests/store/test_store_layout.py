"""A run folder's format, and its files: read whole or refused with a sentence."""

from pathlib import Path

import polars as pl
import pytest

from saelab.core.errors import ArtefactError, UserError
from saelab.store.files import write_json
from saelab.store.layout import FORMAT, Record, RunFolder, Table
from saelab.store.ledger import Ledger


def begun(root: Path, number: int | None) -> RunFolder:
    """A folder in which a run of some format has begun; None: before formats were written down."""
    run = RunFolder(root)
    Ledger(run.ledger)
    if number is not None:
        write_json(root / "format.json", {"format": number})
    return run


def test_a_run_goes_on_in_its_own_format_only(tmp_path: Path) -> None:
    fresh = RunFolder(tmp_path / "fresh")
    fresh.begin()
    assert fresh.format == FORMAT
    begun(tmp_path / "fresh", FORMAT).begin()
    for number, word in ((None, "older format 0.*goes on with"), (FORMAT + 1, f"newer format {FORMAT + 1}")):
        run = begun(tmp_path / str(number), number)
        with pytest.raises(UserError, match=word):
            run.begin()


def test_older_runs_can_be_read_and_newer_ones_cannot(tmp_path: Path) -> None:
    begun(tmp_path / "old", None).check_readable()
    with pytest.raises(UserError, match="newer"):
        begun(tmp_path / "new", FORMAT + 1).check_readable()


def test_files_are_what_was_written_or_an_error(tmp_path: Path) -> None:
    table, record = Table(tmp_path / "t.parquet"), Record(tmp_path / "r.json")
    assert not table.exists and not record.exists
    table.write(pl.DataFrame({"a": [1]}))
    record.write({"b": 2})
    assert table.read(["a"])["a"].to_list() == [1] and record.read() == {"b": 2}
    with pytest.raises(ArtefactError, match="lacks the columns c"):
        table.read(["c"])
    write_json(record.path, [1])
    with pytest.raises(ArtefactError, match="JSON object"):
        record.read()
