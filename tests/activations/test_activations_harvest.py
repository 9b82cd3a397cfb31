"""Harvest: the rows are the LM's own, masked rows are counted, and a killed harvest ends with the same bytes."""

import errno
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.activations.shards import MANIFEST, ActivationShards
from saelab.core.errors import ArtefactError, ResourceError, UserError
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.text.corpora import Document
from saelab.text.pack import PackedText, pack_for

SITES = ["resid_post.0", "resid_post.1"]
CONFIG = HarvestConfig(batch_contexts=3, shard_contexts=8, dtype="float32")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_lm(n_layers=2, d_model=16)


@pytest.fixture(scope="module")
def packed(lm: LanguageModel) -> PackedText:
    return packed_for(lm)


def packed_for(lm: LanguageModel) -> PackedText:
    documents = [
        Document(f"d/{i}", f"The {i}th text tells of {i * i} things, and of {i + 7} more. " * 3) for i in range(40)
    ]
    return pack_for(lm, documents, context=16, n_contexts=30, separator_id=257)


class Altered:
    """An LM whose activations are changed at chosen (context, position, site)."""

    def __init__(self, lm: LanguageModel, packed: PackedText, changes: dict[tuple[int, int, str], float]):
        self.lm, self.packed, self.changes = lm, packed, changes
        self.reference, self.dtype = lm.reference, lm.dtype

    def run_to(self, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> Mapping[str, Float[Tensor, "B T D"]]:
        found = self.lm.run_to(tokens, sites)
        for (context, position, site), factor in self.changes.items():
            for row in (tokens == self.packed.tokens[context]).all(dim=1).nonzero().flatten().tolist():
                found[site][row, position] *= factor
        return found


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_rows_are_the_lms_activations_at_the_positions_that_count(
    lm: LanguageModel, packed: PackedText, tmp_path: Path
) -> None:
    found = harvest(lm, packed, SITES, tmp_path, config=CONFIG)
    assert list(found) == SITES
    direct = lm.run_to(packed.tokens.long(), SITES)
    for site, shards in found.items():
        assert shards.n == int(packed.counts.sum())
        assert (shards.site, shards.d) == (site, 16)
        rows = torch.cat([shards.read(k).rows for k in range(len(shards.manifest.shards))])
        context, position = shards.index.long().unbind(1)
        torch.testing.assert_close(rows, direct[site][context, position], rtol=1e-5, atol=1e-6)
        assert packed.counts[context, position].all()
        torch.testing.assert_close(shards.moments.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
        assert shards.moments.count == shards.n
    assert torch.equal(found[SITES[0]].index, found[SITES[1]].index), "row i is the same token at every site"


def test_bfloat16_rows_are_the_rounded_ones(lm: LanguageModel, packed: PackedText, tmp_path: Path) -> None:
    full = harvest(lm, packed, SITES[:1], tmp_path / "full", config=CONFIG)[SITES[0]]
    half = harvest(lm, packed, SITES[:1], tmp_path / "half", config=CONFIG.model_copy(update={"dtype": "bfloat16"}))
    for k in range(len(full.manifest.shards)):
        assert torch.equal(full.read(k).rows.bfloat16(), half[SITES[0]].read(k).rows)


def test_special_positions_and_sinks_are_left_out_and_counted(
    lm: LanguageModel, packed: PackedText, tmp_path: Path
) -> None:
    sinks = {(2, 5, SITES[0]): 400.0, (20, 9, SITES[1]): 400.0, (25, 3, SITES[0]): 400.0, (25, 3, SITES[1]): 400.0}
    assert all(packed.counts[c, p] for c, p, _ in sinks), "the test's sinks are not special positions"
    found = harvest(Altered(lm, packed, sinks), packed, SITES, tmp_path, config=CONFIG)
    for site in SITES:
        counts = found[site].counts
        assert counts.positions == packed.tokens.numel()
        assert counts.special == int((~packed.counts).sum())
        assert (counts.sinks, counts.sinks_here) == (3, 2)
        assert counts.rows == counts.positions - counts.special - 3 == found[site].n
        assert counts.largest_norm > 100
        where = {(c, p) for c, p in found[site].index.tolist()}
        assert not where & {(2, 5), (20, 9), (25, 3)}, "a sink at one site is left out at all"
    # Control: without the mask the mean norm is wrecked.
    plain = harvest(lm, packed, SITES, tmp_path / "plain", config=CONFIG)
    spoilt = harvest(
        Altered(lm, packed, sinks),
        packed,
        SITES,
        tmp_path / "all",
        config=CONFIG.model_copy(update={"sink_ratio": 1e9}),
    )
    masked, clean, wrecked = (x[SITES[0]].moments.mean_square for x in (found, plain, spoilt))
    assert masked == pytest.approx(clean, rel=0.02)
    assert wrecked > 5 * clean


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_activations_are_named_and_never_written(
    lm: LanguageModel, packed: PackedText, tmp_path: Path, value: float
) -> None:
    bad = Altered(lm, packed, {(13, 4, SITES[1]): value})
    with pytest.raises(ArtefactError, match=r"resid_post\.1, context 13, position 4"):
        harvest(bad, packed, SITES, tmp_path, config=CONFIG)
    assert (tmp_path / SITES[0] / "shard-00000.safetensors").exists(), "shards before it are kept"
    assert not (tmp_path / SITES[1] / "shard-00001.safetensors").exists()
    with pytest.raises(ArtefactError, match="not finished"):
        ActivationShards(tmp_path / SITES[0])


class Killed(Exception):
    """Stands for a kill between two passes of the LM."""


class Stopping(Altered):
    def __init__(self, lm: LanguageModel, packed: PackedText, passes: int):
        super().__init__(lm, packed, {})
        self.left = passes
        self.done = 0

    def run_to(self, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> Mapping[str, Float[Tensor, "B T D"]]:
        if self.left == 0:
            raise Killed
        self.left -= 1
        self.done += 1
        return super().run_to(tokens, sites)


def test_a_stopped_harvest_goes_on_and_ends_with_the_same_bytes(
    lm: LanguageModel, packed: PackedText, tmp_path: Path
) -> None:
    harvest(lm, packed, SITES, tmp_path / "whole", config=CONFIG)
    expected = files_of(tmp_path / "whole")
    total = stops = 0
    for _ in range(20):
        stopping = Stopping(lm, packed, 4)
        stops += 1
        try:
            harvest(stopping, packed, SITES, tmp_path / "parts", config=CONFIG)
            total += stopping.done
            break
        except Killed:
            total += stopping.done
    assert files_of(tmp_path / "parts") == expected
    assert stops > 2
    assert total < 22, "finished shards were not harvested again (11 passes are needed without any kill)"
    again = Stopping(lm, packed, 0)
    harvest(again, packed, SITES, tmp_path / "parts", config=CONFIG)
    assert again.done == 0


def test_damage_is_repaired_by_running_again(lm: LanguageModel, packed: PackedText, tmp_path: Path) -> None:
    harvest(lm, packed, SITES, tmp_path, config=CONFIG)
    expected = files_of(tmp_path)
    for name in ("shard-00001.safetensors", "shard-00000.safetensors", "moments.safetensors", MANIFEST):
        path = tmp_path / SITES[1] / name
        data = path.read_bytes()
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        with pytest.raises(ArtefactError, match=name):
            shards = ActivationShards(tmp_path / SITES[1])
            _ = shards.moments
            list(shards.batches(8))
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        harvest(lm, packed, SITES, tmp_path, config=CONFIG)
        assert files_of(tmp_path) == expected, name


def test_other_work_in_the_folder_is_replaced(lm: LanguageModel, packed: PackedText, tmp_path: Path) -> None:
    harvest(lm, packed, SITES, tmp_path / "a", config=CONFIG.model_copy(update={"shard_contexts": 4}))
    harvest(lm, packed, SITES, tmp_path / "a", config=CONFIG)
    harvest(lm, packed, SITES, tmp_path / "b", config=CONFIG)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_bad_requests_get_a_sentence(lm: LanguageModel, packed: PackedText, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a site"):
        harvest(lm, packed, ["residual.1"], tmp_path)
    with pytest.raises(UserError, match="different sites"):
        harvest(lm, packed, ["resid_post.1", "blocks.1.hook_resid_post"], tmp_path)
    with pytest.raises(UserError, match="none"):
        harvest(lm, packed, [], tmp_path)
    with pytest.raises(UserError):
        harvest(lm, packed, ["resid_post.7"], tmp_path)
    special = PackedText(
        packed.tokens, packed.document_ids * 0 - 1, packed.documents, packed.bos_id, packed.special_ids
    )
    with pytest.raises(UserError, match="only special"):
        harvest(lm, special, SITES, tmp_path)


def test_a_full_disk_keeps_the_finished_shards(
    lm: LanguageModel, packed: PackedText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of the harvest fails once; the next run goes on from there."""
    from saelab.store import files

    config = CONFIG.model_copy(update={"shard_contexts": 16})
    harvest(lm, packed, SITES, tmp_path / "whole", config=config)
    real, writes, failing = os.fsync, [], 0
    for failing in range(99):
        writes.clear()

        def fsync(handle: int, failing: int = failing) -> None:
            writes.append(handle)
            if len(writes) == failing + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(files.os, "fsync", fsync)
        folder = tmp_path / f"full-{failing}"
        try:
            harvest(lm, packed, SITES, folder, config=config)
        except ResourceError as error:
            assert "disk is full" in str(error)
        else:
            break
        monkeypatch.setattr(files.os, "fsync", real)
        harvest(lm, packed, SITES, folder, config=config)
        assert files_of(folder) == files_of(tmp_path / "whole")
    assert failing == len(writes) > 20, "every write call was tried"
