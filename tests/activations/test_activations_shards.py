"""Shards: any flipped bit or truncation is found and named; batches over files keep the laws of the stream."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.activations.shards import MANIFEST, ActivationShards, Manifest
from saelab.core.errors import ArtefactError, UserError
from saelab.core.seeds import numpy_generator
from saelab.lm.tiny import tiny_lm
from saelab.store.files import sha256_of
from saelab.text.corpora import Document
from saelab.text.pack import pack

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm = tiny_lm(n_layers=2, d_model=16)
    documents = [Document(f"d/{i}", f"Text {i} of {i * i} words. " * 5) for i in range(60)]
    packed = pack(
        documents, lambda t: lm.tokenize(t, bos=False), context=16, bos_id=lm.bos_id, special_ids=lm.special_ids
    )
    folder = tmp_path_factory.mktemp("activations")
    harvest(lm, packed, [SITE], folder, config=HarvestConfig(shard_contexts=40))
    return folder / SITE


def read_all(folder: Path) -> None:
    shards = ActivationShards(folder)
    _ = shards.moments
    for _ in shards.batches(64):
        pass


def test_flipped_bits_are_all_detected_and_named(harvested: Path) -> None:
    """200 random bits over all files of a site; the control is that the untouched folder reads."""
    read_all(harvested)
    generator = numpy_generator("bit flips")
    files = sorted(harvested.iterdir())
    missed = []
    for _ in range(200):
        path = files[int(generator.integers(len(files)))]
        data = path.read_bytes()
        place, bit = int(generator.integers(len(data))), int(generator.integers(8))
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
        try:
            read_all(harvested)
            missed.append((path.name, place, bit))
        except ArtefactError as error:
            assert path.name in str(error)
        finally:
            path.write_bytes(data)
    assert not missed
    read_all(harvested)


def test_truncation_is_detected_on_opening(harvested: Path) -> None:
    for path in sorted(harvested.glob("shard-*")):
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        for size in (0, 7, 8, header - 1, header, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:size])
            with pytest.raises(ArtefactError, match=path.name):
                ActivationShards(harvested)
        path.unlink()
        with pytest.raises(ArtefactError, match=f"{path.name} is missing"):
            ActivationShards(harvested)
        path.write_bytes(data)
    data = (harvested / MANIFEST).read_bytes()
    for size in range(0, len(data) - 2, 97):
        (harvested / MANIFEST).write_bytes(data[:size])
        with pytest.raises(ArtefactError, match=MANIFEST):
            ActivationShards(harvested)
    (harvested / MANIFEST).write_bytes(data)
    read_all(harvested)


def test_damage_inside_a_later_pass_is_detected_too(harvested: Path) -> None:
    """Blocks are read again in every pass, and checked again."""
    shards = ActivationShards(harvested, memory=0)
    assert len(shards.manifest.shards) > 2
    path = harvested / shards.manifest.shards[1].file
    data = path.read_bytes()
    stream = shards.batches(64, passes=2)
    next(stream)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(ArtefactError, match=path.name):
            ActivationShards(harvested).read(1)
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_row_is_named(harvested: Path, tmp_path: Path, value: float) -> None:
    """A shard that was written with a bad row, checksum and all, is refused before any batch holds it."""
    for path in harvested.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = Manifest.load(tmp_path)
    record = manifest.shards[1]
    tensors = safetensors.torch.load_file(tmp_path / record.file)
    tensors["rows"][17, 3] = value
    where = (int(tensors["context"][17]), int(tensors["position"][17]))
    safetensors.torch.save_file(tensors, tmp_path / record.file)
    poisoned = replace(record, sha256=sha256_of(tmp_path / record.file))
    replace(manifest, shards=(manifest.shards[0], poisoned, *manifest.shards[2:])).save(tmp_path)
    with pytest.raises(
        ArtefactError, match=rf"Row 17 of shard .*{record.file} \(context {where[0]}, position {where[1]}\)"
    ):
        next(ActivationShards(tmp_path).batches(8))


def test_batches_are_a_permutation_and_resume(harvested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelab.activations.shards.LEAST_BLOCK", 700)
    rows = torch.cat([ActivationShards(harvested).read(k).rows for k in range(3)]).float()
    assert len(rows) > 1400
    for memory in (1 << 30, 0):
        shards = ActivationShards(harvested, memory=memory)
        whole = list(shards.batches(100, passes=2, seed=5))
        assert len(whole) == 2 * shards.n // 100
        assert all(b.dtype == torch.float32 and b.shape == (100, 16) for b in whole)
        first = torch.cat(whole)[: shards.n]
        all_rows = torch.cat([shards.read(k).rows for k in range(len(shards.manifest.shards))]).float()
        assert np.array_equal(np.sort(first.numpy(), axis=0), np.sort(all_rows.numpy(), axis=0))
        for start in (0, 1, 7, len(whole) - 1, len(whole)):
            rest = list(shards.batches(100, passes=2, seed=5, start=start))
            assert len(rest) == len(whole) - start
            assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))
        longer = list(shards.batches(100, steps=5, seed=5))
        assert all(torch.equal(a, b) for a, b in zip(whole, longer, strict=False))
        assert not torch.equal(whole[0], next(shards.batches(100, steps=1, seed=6)))


def test_bad_requests_get_a_sentence(harvested: Path, tmp_path: Path) -> None:
    shards = ActivationShards(harvested)
    with pytest.raises(UserError, match="cannot be drawn"):
        shards.batches(shards.n + 1)
    with pytest.raises(UserError, match="cannot be drawn"):
        shards.batches(0, steps=3)
    with pytest.raises(UserError, match="Both"):
        shards.batches(4, steps=3, passes=1)
    with pytest.raises(ArtefactError, match="missing"):
        ActivationShards(tmp_path)
