"""What an interrupted stage left is gone on with where it is what was written, and only then."""

from pathlib import Path

import pytest

from saelab.core.errors import ResourceError
from saelab.store import resumable
from saelab.store.artefacts import Record
from saelab.store.resumable import Resumable

ASKED = {"seed": 0, "doses": [0.1, 0.3]}


def opened(folder: Path, asked: dict = ASKED) -> Resumable:
    return Resumable(Record(folder / "manifest.json"), asked)


def put(held: Resumable, path: Path, text: str) -> None:
    held.write(path, lambda temporary: temporary.write_text(text))


def test_what_was_written_is_taken_up_and_another_request_starts_anew(tmp_path: Path) -> None:
    held = opened(tmp_path)
    assert held.fresh
    put(held, tmp_path / "a", "one")
    assert not opened(tmp_path).fresh and opened(tmp_path).whole(tmp_path / "a")
    assert not opened(tmp_path).whole(tmp_path / "b"), "what is not there"
    other = opened(tmp_path, ASKED | {"seed": 1})
    assert other.fresh and not other.whole(tmp_path / "a")


@pytest.mark.parametrize("name", ["a", "manifest.json"])
def test_every_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    """Of the file, and of what vouches for it."""
    put(opened(tmp_path), tmp_path / "a", "one")
    content = (tmp_path / name).read_bytes()
    for at in range(len(content)):
        for bit in (0, 3, 7):
            (tmp_path / name).write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            assert not opened(tmp_path).whole(tmp_path / "a"), (at, bit)
    (tmp_path / name).write_bytes(content)
    assert opened(tmp_path).whole(tmp_path / "a"), "control"


def test_a_file_that_grows_is_whole_on_both_sides_of_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is written first; where the file then finds no place, the one before it still counts."""
    path = tmp_path / "a"
    put(held := opened(tmp_path), path, "one")
    put(held, path, "one two")
    undisturbed = tmp_path / "undisturbed"
    for text in ("one", "one two", "one two three"):
        put(opened(undisturbed), undisturbed / "a", text)
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ResourceError, match="disk is full"):
        put(held, path, "one two three")
    monkeypatch.undo()
    again = opened(tmp_path)
    assert path.read_text() == "one two" and again.whole(path)
    put(again, path, "one two three")
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*") if p.is_file()} == {
        p.name: p.read_bytes() for p in undisturbed.iterdir()
    }, "and nothing remembers it"
    path.write_text("one")
    assert not opened(tmp_path).whole(path), "control: what was left behind long ago does not count"


def test_a_manifest_without_its_own_sum_vouches_for_nothing(tmp_path: Path) -> None:
    """As other versions wrote it."""
    put(opened(tmp_path), tmp_path / "a", "one")
    record = Record(tmp_path / "manifest.json")
    held = record.read()
    record.write({k: v for k, v in held.items() if k != resumable.DIGEST})
    assert opened(tmp_path).fresh
    record.write(held)
    assert not opened(tmp_path).fresh, "control"
