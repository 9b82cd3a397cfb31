"""What is read is never written over: by `convert` and `push`, through links, and when a write fails midway."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from sample_saes import random_sae

from saelab.cli import main
from saelab.core.errors import ResourceError, UserError
from saelab.publish.upload import upload
from saelab.saes.formats import convert_sae, load_sae, save_sae
from saelab.store.files import apart, filling

LLAMA = Path(__file__).parent / "golden" / "llama_scope" / "Llama3_1-8B-Base-L3R-8x"


def held(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_no_folder_of_the_source_is_written_to(tmp_path: Path) -> None:
    source = tmp_path / "around" / LLAMA.name
    shutil.copytree(LLAMA, source)
    before = held(tmp_path)
    for target in (source, source / "checkpoints", source / "new", source.parent, tmp_path):
        with pytest.raises(UserError, match="nothing was written"):
            convert_sae(source, target, replace=True)
    assert held(tmp_path) == before
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("mine")
    convert_sae(source, tmp_path / "target", replace=True)  # control
    assert load_sae(tmp_path / "target").cfg.d_in == load_sae(source).cfg.d_in


def test_no_file_behind_a_link_and_no_map_is_written_over(tmp_path: Path) -> None:
    blobs, snap = tmp_path / "blobs", tmp_path / "snap"
    save_sae(random_sae("standard"), blobs)
    snap.mkdir()
    for path in blobs.iterdir():
        (snap / path.name).symlink_to(path)
    (tmp_path / "maps").mkdir()
    said = tmp_path / "maps" / "map.yaml"
    said.write_text("subtract_b_dec: false\ntensors: {W_enc: W_enc, W_dec: W_dec, b_enc: b_enc, b_dec: b_dec}\n")
    before = held(tmp_path)
    weights = snap / "sae_weights.safetensors"
    for source in (snap, weights):
        with pytest.raises(UserError, match=r"blobs holds .*, which is read"):
            convert_sae(source, blobs, replace=True)
    with pytest.raises(UserError, match=r"maps holds map\.yaml, which is read"):
        convert_sae(weights, tmp_path / "maps", replace=True, tensors=str(said))
    assert held(tmp_path) == before
    assert convert_sae(weights, snap / "beside", tensors=str(said)).cfg.d_in  # control: an empty folder beside a file


def test_push_spares_what_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, link, target = tmp_path / "source", tmp_path / "link", tmp_path / "target"
    save_sae(random_sae("standard"), source)
    link.symlink_to(source)
    before = held(source)
    for place in (source, link, source / "deep", tmp_path):
        assert main(["push", str(source), f"path:{place}", "--replace", "--incomplete"]) == UserError.exit_code
        assert "nothing was written" in capsys.readouterr().err
        with pytest.raises(UserError, match="nothing was written"):
            upload(source, f"path:{place}", replace=True)
    assert held(source) == before
    target.mkdir()
    (target / "old").write_text("mine")
    assert main(["push", str(source), f"path:{target}", "--replace", "--incomplete"]) == 0  # control
    assert "Replaced: old." in capsys.readouterr().out
    assert "README.md" in held(target) and "old" not in held(target)


def test_a_loop_of_links_is_walked_once(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("mine")
    apart(tmp_path / "target", tmp_path / "source")
    (tmp_path / "source" / "deep").mkdir()
    (tmp_path / "source" / "deep" / "file").symlink_to(tmp_path / "target" / "old")  # control
    with pytest.raises(UserError, match="holds old, which is read"):
        apart(tmp_path / "target", tmp_path / "source")


@pytest.mark.parametrize("broken", range(4))
def test_a_move_that_fails_puts_everything_back(tmp_path: Path, monkeypatch: Any, broken: int) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for name in ("a", "b"):
        (target / name).write_text("old")
    moved, rename = [], Path.rename

    def failing(self: Path, other: Path) -> Path:
        moved.append(other)
        if len(moved) == broken + 1:
            raise OSError("a bad disk")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ResourceError, match="a bad disk") as caught, filling(target, replace=True) as made:
        assert made.parent.parent == target  # on the device of the target, wherever that is
        for name in ("b", "c"):
            (made / name).write_text("new")
    assert caught.value.hint is not None
    assert held(target) == {"a": b"old", "b": b"old"}
    with filling(target, replace=True) as made:  # control: the mended disk
        (made / "c").write_text("new")
    assert held(tmp_path) == {"target/c": b"new"}
    assert [p.name for p in target.iterdir()] == ["c"]


def test_files_that_cannot_be_put_back_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("old")
    moved, rename = [], Path.rename

    def failing(self: Path, other: Path) -> Path:
        moved.append(other)
        if len(moved) > 1:
            raise OSError("a bad disk")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ResourceError, match="its files lie in"), filling(tmp_path, replace=True):
        pass
    assert sorted(p.read_text() for p in tmp_path.rglob("*") if p.is_file()) == ["old", "old"]


def test_a_link_to_another_device_is_filled(tmp_path: Path) -> None:
    there = Path("/dev/shm")
    if not there.is_dir() or there.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second device")
    other = there / f"saelab-{tmp_path.parent.name}-{tmp_path.name}"
    other.mkdir()
    try:
        (tmp_path / "link").symlink_to(other)
        with filling(tmp_path / "link") as made:
            (made / "a").write_text("new")
        assert held(other) == {"a": b"new"}
    finally:
        shutil.rmtree(other)
