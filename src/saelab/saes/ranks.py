"""The processes that train one SAE together, as a training rule sees them.

Each has an equal share of the rows of every batch; weights and counters are the same on all. What depends on the whole
batch is a sum over the ranks or is read from the values of all of them. training/distributed.py has the real ones;
nothing here knows torch.distributed.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """`size` processes, this one number `index`. Every rank must make the same calls in the same order."""

    size: int
    index: int

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, the same bits on each; `tensor` itself may be overwritten."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """The vectors of all ranks, one after another; lengths may differ."""
        ...

    def told(self, word: str) -> str:
        """The word of the first rank, on all; the others wait for it."""
        ...


class Alone:
    """One process."""

    size = 1
    index = 0

    def total(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, values: Tensor) -> Tensor:
        return values

    def told(self, word: str) -> str:
        return word


ALONE: Ranks = Alone()
