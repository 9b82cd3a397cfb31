"""An accelerator pretended on a machine without one: its tensors say `pretended:0`, the CPU computes their numbers.

As on a real one, an operation on tensors of two devices is an error (scalars without dimensions and index tensors may
lie on the CPU), NumPy cannot read a tensor, and what an operation makes lies where its inputs lie. What a real
accelerator's own kernels compute, and how fast, cannot be seen here.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from saelab.core import hardware

_setup_privateuseone_for_python_backend("pretended")
PLACE, CPU = torch.device("pretended", 0), torch.device("cpu")
MIXES = ("aten::copy_", "aten::to", "aten::_to_copy", "aten::index", "aten::index_put_")


class There(torch.Tensor):
    """A tensor on the pretended device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "There":
        strides = held.stride() if held.layout == torch.strided else None
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, strides=strides, dtype=held.dtype, device=PLACE)
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"There({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert pretended device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation as the machine with the device would do it."""
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    name = func._schema.name
    here = [t for t in tensors if not isinstance(t, There) and t.dim()]
    if there and here and name not in MIXES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got pretended:0 and cpu.")
    asked = next((a for a in (kwargs.get("device"), *args) if isinstance(a, torch.device)), None)
    if asked is not None:
        asked = PLACE if asked.type == PLACE.type else asked
        args, kwargs = tree_map(lambda a: CPU if isinstance(a, torch.device) and asked == PLACE else a, (args, kwargs))
    held = tree_map(lambda t: t.held if isinstance(t, There) else t, (args, kwargs))
    found = func(*held[0], **held[1])
    if name.endswith("_") and not name.endswith("__") and isinstance(args[0], torch.Tensor):
        return args[0]
    on = asked == PLACE if asked is not None else bool(there)
    return tree_map(lambda t: There(t) if on and type(t) is torch.Tensor else t, found)


class _Made(TorchFunctionMode):
    """Tensors that are made from Python's numbers, which no operation dispatches: made here, then moved there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            place = torch.device(kwargs["device"])
            return func(*args, **(kwargs | {"device": "cpu"})).to(place)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], There):
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            where = tuple(torch.tensor(part) if isinstance(part, list) else part for part in where)
            args = (args[0], where, *args[2:])
        return func(*args, **kwargs)


class _Here(TorchDispatchMode):
    """The device exists in one thread."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Pretended:
    """While open, the device exists: in this thread and in those that are started meanwhile."""

    def __enter__(self) -> "Pretended":
        self._open, self._run = ExitStack(), threading.Thread.run
        run = self._run

        def started(thread: threading.Thread) -> None:
            with _Made(), _Here():
                run(thread)

        threading.Thread.run = started
        self._open.enter_context(_Made())
        self._open.enter_context(_Here())
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()
        threading.Thread.run = self._run


@contextmanager
def pretended_by_name(seen: list[torch.device]) -> Iterator[None]:
    """The device exists and is found by its name. seen: what was asked for, in order."""
    real = hardware.device_of

    def found(name: str) -> torch.device:
        seen.append(PLACE if name in (str(PLACE), "auto") else real(name))
        return seen[-1]

    users = [m for m in list(sys.modules.values()) if getattr(m, "device_of", None) is real]
    with Pretended(), pytest.MonkeyPatch.context() as patch:
        for module in users:
            patch.setattr(module, "device_of", found)
        yield
