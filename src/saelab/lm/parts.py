"""The parts of a block, found by what flows through them, not by their names.

A block is run once on a short stream and every module one or two levels down is watched. With x the block's input and
y its output, the two modules whose outputs a and m give x + a + m = y are what attention and MLP add; whoever reads
x + a reads the stream between them. Nothing is guessed: what the numbers do not show is None. Knows nothing of models.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockParts:
    """The modules of one block that sites are read and changed at; None where the block has no such thing.

    attn: mixes positions. attn_out, mlp_out: their outputs are added to the stream. mlp: its input is `mlp_in`.
    mlp_norm: its input is the stream between attention and MLP (None where both read the block's input). heads: its
    input is the heads' z side by side, `[B, T, H d]`.
    """

    attn: nn.Module | None = None
    attn_out: nn.Module | None = None
    mlp: nn.Module | None = None
    mlp_out: nn.Module | None = None
    mlp_norm: nn.Module | None = None
    heads: nn.Module | None = None


@dataclass(frozen=True)
class _Seen:
    """A module's first call: its name in the block, its first input and its output."""

    name: str
    module: nn.Module
    reads: Tensor | None
    gives: Tensor

    @property
    def depth(self) -> int:
        return self.name.count(".")

    @property
    def top(self) -> str:
        return self.name.split(".")[0]


@torch.no_grad()
def find_parts(block: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor]) -> BlockParts:
    """The parts of a block from one run over a stream `[B, T, D]`."""
    seen, y = _watch(block, x, run)
    added = next(_sums(seen, x, y), None)
    if added is None:
        attn = next((s for s in seen if s.depth == 0 and "attention" in type(s.module).__name__.lower()), None)
        return BlockParts(attn=None if attn is None else attn.module)
    a, m = added
    attn, mixed = _source(seen, a), x + a.gives
    after = seen[seen.index(a) + 1 :]
    middle = next((s for s in after if s.depth == 0 and _same(s.reads, mixed)), None)
    mlp = _source(seen, m)
    if mlp is not None and (mlp.reads is None or mlp.reads.shape != x.shape):  # a block's own two matrices: the first
        mlp = next((s for s in after if s.depth == 0 and s.reads is not None and _same(s.reads, _input(middle))), None)
    return BlockParts(
        attn=None if attn is None else attn.module,
        attn_out=a.module,
        mlp=None if mlp is None else mlp.module,
        mlp_out=m.module,
        mlp_norm=None if middle is None else middle.module,
        heads=None if attn is None else _heads(attn),
    )


def _watch(block: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor]) -> tuple[list[_Seen], Tensor]:
    """What the modules of a block read and gave, in the order of their calls."""
    begun: dict[str, tuple[int, Tensor | None]] = {}
    ended: dict[str, _Seen] = {}
    order = itertools.count()

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            first = args[0] if args else kwargs.get("hidden_states")
            begun.setdefault(name, (next(order), first.clone() if isinstance(first, Tensor) else None))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor) and name in begun:  # cloned: some blocks add in place
                ended.setdefault(name, _Seen(name, module, begun[name][1], first.clone()))

        return hook

    handles = []
    for name, module in block.named_modules():
        if name and name.count(".") <= 1:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        y = run(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return sorted(ended.values(), key=lambda s: begun[s.name][0]), y


def _sums(seen: list[_Seen], x: Tensor, y: Tensor) -> Iterator[tuple[_Seen, _Seen]]:
    """Pairs whose outputs lead from x to y: outermost first, then in the order of their calls."""
    fits = [s for s in seen if s.gives.shape == x.shape and not _same(s.gives, torch.zeros_like(x))]
    pairs = [(a, m) for a, m in itertools.combinations(fits, 2) if not m.name.startswith(f"{a.name}.")]
    for a, m in sorted(pairs, key=lambda pair: pair[0].depth + pair[1].depth):
        if _same(x + a.gives + m.gives, y):
            yield a, m


def _source(seen: list[_Seen], added: _Seen) -> _Seen | None:
    """The outermost module that computes what is added: not the norm, dropout or last matrix that it goes through."""
    top = next((s for s in seen if s.name == added.top), added)
    if any(True for _ in top.module.children()):
        return top
    if added.reads is None:
        return added
    return next((s for s in seen if s is not added and s.depth == 0 and _same(s.gives, added.reads)), added)


def _heads(attn: _Seen) -> nn.Module | None:
    """The matrix that ends an attention: what it reads are the heads."""
    if not any(word in type(attn.module).__name__.lower() for word in ("attention", "attn")):
        return None
    matrices = [(n, m) for n, m in attn.module.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2]
    return next((m for name, m in matrices if name.split(".")[-1] in OUTPUTS), None)


# What transformers' attentions call their last matrix.
OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_projection", "attn_out")


def _input(seen: _Seen | None) -> Tensor | None:
    return None if seen is None else seen.gives


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    difference, size = (a.float() - b.float()).norm(), b.float().norm()
    return bool(difference <= (1e-4 if a.dtype == torch.float32 else 2e-2) * size) if size > 0 else not difference
