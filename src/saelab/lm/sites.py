"""Sites: where in the network an activation is read or changed.

A site is a kind and a block number. `resid_post.L` is the residual stream after block L, that is `hidden_states[L+1]`
of transformers (for the last block transformers returns the stream *after the final norm* instead; here it is before
it, as at every other block). `resid_pre.L` is the stream before block L. `attn_out.L` and `mlp_out.L` are what the two
halves of block L add to the stream. This module knows names only, never a model.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from saelab.core.errors import UserError, nearest

Kind = Literal["resid_post", "resid_pre", "attn_out", "mlp_out"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SHORT = re.compile(r"(?P<kind>[a-z_]+)\.(?P<layer>\d+)")
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.hook_(?P<kind>[a-z_]+)")
_MODULE = re.compile(
    r"(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h)\.(?P<layer>\d+)(?:\.(?P<part>\w+))?"
)
_PARTS: dict[str | None, Kind] = {
    None: "resid_post",
    "mlp": "mlp_out",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
}


@dataclass(frozen=True, order=True)
class Site:
    """A place in the network: `kind` and block number `layer` (from 0)."""

    kind: Kind
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    def hook_name(self) -> str:
        """The TransformerLens name, `blocks.12.hook_resid_post`."""
        return f"blocks.{self.layer}.hook_{self.kind}"


def parse_site(name: str | Site) -> Site:
    """Parse `resid_post.12`, `blocks.12.hook_resid_post`, `model.layers.12`, `layers.12`, `transformer.h.12` or
    `model.layers.12.mlp`; a `Site` is returned as it is. Anything else is a `UserError` with the nearest names.
    """
    if isinstance(name, Site):
        return name
    if match := _MODULE.fullmatch(name):
        if match["part"] in _PARTS:
            return Site(_PARTS[match["part"]], int(match["layer"]))
    elif match := _HOOK.fullmatch(name) or _SHORT.fullmatch(name):
        for kind in KINDS:
            if match["kind"] == kind:
                return Site(kind, int(match["layer"]))
    number = next(iter(re.findall(r"\d+", name)), "0")
    raise UserError(
        f"{name!r} is not a site.",
        hint=nearest(name, [f"{k}.{number}" for k in KINDS] + [f"blocks.{number}.hook_resid_post", f"layers.{number}"]),
    )
