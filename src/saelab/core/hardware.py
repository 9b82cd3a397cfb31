"""What this machine does natively, and its cores shared among threads.

torch is imported when asked, so that `stats` and `report` run without it.
"""

import os
import re
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from saelab.core.errors import ResourceError, UserError, nearest

if TYPE_CHECKING:
    import torch

DEVICE = "SAELAB_DEVICE"  # what `auto` means in this process and in those that it starts
T = TypeVar("T")
_FITS: dict[str, int] = {}  # what a device's memory was enough for
TURN = 2e-4  # seconds that a thread may keep the interpreter while others wait


def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 run in hardware; elsewhere they are emulated, several times slower."""
    import torch

    place = device_of(device) if device == "auto" else torch.device(device)
    if place.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())  # pyright: ignore[reportPrivateUsage]  (torch has no public name)
    return (
        place.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def check_device(name: str) -> str:
    """The name itself. Raises `UserError` where no device is called so; whether there is one is not looked at."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"{name!r} is not a device.", hint=nearest(name, ["auto", "cpu", "cuda", "cuda:1", "mps"]))
    return name


def device_of(name: str) -> "torch.device":
    """The device called so: auto (what SAELAB_DEVICE names, else CUDA where there is a card, else the CPU), cpu, cuda,
    cuda:1 or mps.

    Raises `UserError` for other names and where this machine has none.
    """
    import torch

    name = check_device(os.environ.get(DEVICE, "auto") if name == "auto" else name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("There is no device 'mps': torch sees no Apple GPU here.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no device {name!r}: torch sees {torch.cuda.device_count()} CUDA devices here.")
    return device


def fitting(what: str, size: int, work: Callable[[int], T]) -> T:
    """`work(size)`, where size is how much is done at once; half of it each time a device's memory is not enough.

    What was enough is kept for `what` as long as the process lives. Raises `ResourceError` where not even 1 is.
    """
    import torch

    size = min(size, _FITS.get(what, size))
    while True:
        try:
            return work(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise ResourceError(
                    f"The memory of the device is not enough for {what} one at a time.",
                    hint="Take shorter texts, --device cpu, or what else lies on the device off it.",
                ) from error
            size = _FITS[what] = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def cores() -> int:
    """Cores that this process may use; where a system does not say (macOS), those of the machine."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Bytes of memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def threads() -> int:
    """How many threads torch uses: one per core unless told otherwise."""
    import torch

    return torch.get_num_threads()


@contextmanager
def limited(count: int | None) -> Generator[int, None, None]:
    """torch uses `count` threads inside (None: as many as before); yields how many, and puts the former number back."""
    import torch

    before = threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def side_by_side(jobs: int) -> Generator[ThreadPoolExecutor, None, None]:
    """A pool of as many threads as torch has (or jobs, if fewer), which share torch's own among them.

    Independent work runs faster on one thread each than in turn on all: nothing waits at the end of every small
    product. What a thread computes does not depend on how many there are. Left by an error, work not begun is dropped.
    """
    import torch

    before = threads()
    workers = max(1, min(jobs, before, os.cpu_count() or 1))
    torch.set_num_threads(max(1, before // workers))
    turn = sys.getswitchinterval()
    # A thread that comes back from a product must not wait 5 ms (the default) for one that runs Python.
    sys.setswitchinterval(TURN)
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        sys.setswitchinterval(turn)
        torch.set_num_threads(before)
