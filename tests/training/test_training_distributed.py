"""Two gloo processes under torchrun train the SAE that one process trains on the joint batch, and resume to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planted import batches
from train_ranks import ROWS, STEPS, configs

from saelab.core.errors import UserError
from saelab.saes.catalogue import ARCHITECTURES
from saelab.saes.ranks import ALONE
from saelab.store.tensors import read_tensors
from saelab.training.distributed import joined
from saelab.training.sweep import train


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have written."""
    folder = tmp_path_factory.mktemp("ranks")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("train_ranks.py")
    found = subprocess.run(
        [*start, str(script), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return folder


@pytest.mark.sweep
def test_both_ranks_have_the_same_bits(together: Path) -> None:
    for name in ARCHITECTURES:
        first, second = ((together / f"rank{i}" / f"{name}.safetensors").read_bytes() for i in (0, 1))
        assert first == second, name


@pytest.mark.sweep
def test_two_processes_equal_one_with_the_joint_batch(together: Path) -> None:
    """Up to the order of sums; the control, trained on half of every batch, is far off."""
    data = batches(8, ROWS, 16)
    alone = train(list(configs().values()), data, steps=STEPS, precision="float32")
    half = train(list(configs().values()), [x[: ROWS // 2] for x in data], steps=STEPS, precision="float32")
    for name, sae, other in zip(configs(), alone, half, strict=True):
        found = read_tensors(together / "rank0" / f"{name}.safetensors")
        for key, tensor in sae.weights().items():
            assert (found[key] - tensor).norm() <= 1e-4 * tensor.norm(), (name, key)
        assert (other.W_enc - sae.W_enc).norm() > 1e-2 * sae.W_enc.norm()


@pytest.mark.sweep
@pytest.mark.parametrize("how", ["error", "signal"])
def test_an_interrupted_run_ends_with_the_same_bytes(together: Path, how: str) -> None:
    whole = {p.relative_to(together / "whole"): p for p in (together / "whole" / "saes").rglob("*.*")}
    assert len(whole) == 2 * len(ARCHITECTURES)
    for name, path in whole.items():
        assert (together / how / name).read_bytes() == path.read_bytes(), name


def test_one_process_is_alone() -> None:
    with joined() as ranks:
        assert ranks is ALONE


def test_a_batch_that_cannot_be_split_is_a_sentence() -> None:
    class Three:
        size, index = 3, 0

        def total(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            return values

        def told(self, word: str) -> str:
            return word

    with pytest.raises(UserError, match="64 tokens cannot be split evenly over 3"):
        train(list(configs().values()), batches(2, ROWS, 16), steps=2, ranks=Three())
