"""Taps: the edits and captures of one forward pass, applied between blocks.

At a site the edits come first, in the order given, then the capture: what is captured is what the next block sees.
The stream between blocks is visited by the block loop, the sites inside a block by hooks that live only as long as the
pass. An edit at `resid_mid` changes what the MLP's norm reads; its difference is added to the block's output, which the
unedited stream is part of.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from saelab.core.sites import Kind, Site, parse_site
from saelab.lm.blocks import Decoder
from saelab.lm.edit import Edit

Phase = Literal["prompt", "generated"]


class Taps:
    """What happens at which site during a pass over `rows` of the batch.

    phase: whether the positions of the pass are prompt tokens or generated ones.
    """

    def __init__(self, edits: Sequence[Edit], rows: Int[Tensor, " B"], *, phase: Phase, sites: Iterable[Site] = ()):
        self.rows = rows
        self.phase = phase
        self.captured: dict[Site, Tensor] = {}
        self._sites = frozenset(sites)
        self._edits: dict[Site, list[Edit]] = {}
        self._moved: dict[int, Tensor] = {}
        for edit in edits:
            if touches(edit, phase):
                self._edits.setdefault(parse_site(edit.site), []).append(edit)

    def visit(self, kind: Kind, layer: int, hidden: Tensor) -> Tensor:
        """Edit, then capture, the activation `[B, T, D]` of a site."""
        site = Site(kind, layer)
        if kind == "resid_post" and (moved := self._moved.pop(layer, None)) is not None:
            hidden = hidden + moved
        for edit in self._edits.get(site, ()):
            hidden = self._edited(edit, hidden)
        if site in self._sites:
            # Inside a block a copy: some blocks go on to add to the very tensor (Falcon).
            self.captured[site] = hidden if site.of_stream else hidden.clone()
        return hidden

    @contextmanager
    def hooked(self, decoder: Decoder) -> Iterator[None]:
        """Hook the parts of blocks that are edited or captured."""
        handles = []
        for site in self._sites | self._edits.keys():
            part = None if site.of_stream else decoder.part(site.kind, site.layer)
            if part is not None and site.kind in ("attn_out", "mlp_out"):
                handles.append(part.register_forward_hook(self._after(site)))
            elif part is not None:
                handles.append(part.register_forward_pre_hook(self._before(site)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, site: Site) -> Callable[..., Tensor | tuple]:
        owner = get_ident()

        def hook(module: nn.Module, inputs: object, output: Tensor | tuple) -> Tensor | tuple:
            del module, inputs
            if get_ident() != owner:  # another thread's pass through the same model
                return output
            if isinstance(output, tuple):
                return (self.visit(site.kind, site.layer, output[0]), *output[1:])
            return self.visit(site.kind, site.layer, output)

        return hook

    def _before(self, site: Site) -> Callable[..., tuple | None]:
        owner = get_ident()

        def hook(module: nn.Module, inputs: tuple) -> tuple | None:
            del module
            if get_ident() != owner:
                return None
            hidden = self.visit(site.kind, site.layer, inputs[0])
            if site.kind == "resid_mid" and hidden is not inputs[0]:
                self._moved[site.layer] = hidden - inputs[0]
            return (hidden, *inputs[1:])

        return hook

    def _edited(self, edit: Edit, hidden: Tensor) -> Tensor:
        if edit.positions != "last":
            return edit.apply(hidden, self.rows)
        last = edit.apply(hidden[:, -1:], self.rows)
        return torch.cat([hidden[:, :-1], last], dim=1)


def touches(edit: Edit, phase: Phase) -> bool:
    """Whether an edit changes anything in a pass over prompt, or generated, positions."""
    return edit.positions == "all" or edit.positions == phase or (edit.positions == "last" and phase == "prompt")
