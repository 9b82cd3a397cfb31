"""Several processes, one SAE: data-parallel training, in `saelab train` or a script that torchrun starts.

    torchrun --nproc-per-node 2 -m saelab train study.yaml

    with joined() as ranks:
        saes = saelab.train(configs, batches, steps=..., ranks=ranks)

Every rank holds the whole SAE and takes an equal share of the rows of each batch; gradients, counts and the choices
among the whole batch (BatchTopK) are exchanged, so the result is that of one process with the joint batch up to the
order of sums. The ranks end with the same bits; one of them writes. Resuming needs the same number of ranks to give the
same bytes. This file must never know what an SAE is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.ranks import ALONE, Ranks

LONGEST = timedelta(days=30)  # that ranks wait for the first, which harvests; one that died is noticed at once


class Processes:
    """The ranks of the default process group."""

    def __init__(self) -> None:
        self.size = dist.get_world_size()
        self.index = dist.get_rank()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
        return tensor

    def gather(self, values: Tensor) -> Tensor:
        """The vectors of all ranks in the order of the ranks."""
        sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([values.numel()], device=values.device))
        lengths = [int(n) for n in sizes]
        padded = values.new_zeros(max(lengths))
        padded[: values.numel()] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])

    def told(self, word: str) -> str:
        """The word of the first rank, on all."""
        words = [word]
        dist.broadcast_object_list(words, device=torch.device("cpu"))
        return words[0]


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(backend: str | None = None) -> Iterator[Ranks]:
    """The ranks that torchrun started; one process on its own where it did not.

    `backend`: torch.distributed's; by default gloo, with NCCL for what lies on CUDA devices, of which each process on a
    machine then takes its own.
    """
    if not launched():
        yield ALONE
        return
    if not dist.is_available():
        raise UserError("This torch was built without torch.distributed, which training on several processes needs.")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = backend or "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend or "gloo", timeout=LONGEST)
    try:
        yield Processes()
    finally:
        dist.destroy_process_group()
