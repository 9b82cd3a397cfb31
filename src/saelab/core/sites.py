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
    r"(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h)\.(?P<layer>\d+)"
    r"(?:\.(?P<part>mlp|post_feedforward_layernorm|self_attn|attn|attention))?(?:\.output)?"
)
_LISTED = re.compile(r"(?P<kind>[a-z_]+)_layer_(?P<layer>\d+)")  # dictionary_learning
_PARTS: dict[str | None, Kind] = {
    None: "resid_post",
    "mlp": "mlp_out",
    "post_feedforward_layernorm": "mlp_out",  # Gemma 2 and 3, OLMo 2: what is added to the stream
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
}
_ALIASES = {"attention_out": "attn_out"}


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


def find_site(name: str) -> Site | None:
    """The site that a name means in any accepted spelling (see `parse_site`), or None."""
    if match := _MODULE.fullmatch(name):
        return Site(_PARTS[match["part"]], int(match["layer"]))
    if match := _HOOK.fullmatch(name) or _LISTED.fullmatch(name) or _SHORT.fullmatch(name):
        named = _ALIASES.get(match["kind"], match["kind"])
        return next((Site(kind, int(match["layer"])) for kind in KINDS if kind == named), None)
    return None


def parse_site(name: str | Site) -> Site:
    """Parse `resid_post.12`, `blocks.12.hook_resid_post`, `model.layers.12`, `layers.12`, `transformer.h.12`,
    `model.layers.12.mlp` or `resid_post_layer_12`; a `Site` is returned as it is. Anything else is a `UserError` with
    the nearest names.
    """
    if isinstance(name, Site):
        return name
    if found := find_site(name):
        return found
    number = next(iter(re.findall(r"\d+", name)), "0")
    raise UserError(
        f"{name!r} is not a site.",
        hint=nearest(name, [f"{k}.{number}" for k in KINDS] + [f"blocks.{number}.hook_resid_post", f"layers.{number}"]),
    )


def house_name(name: str | None) -> str | None:
    """A site's name as it is written here, `resid_post.12`; a place that is no site keeps the name it came with."""
    found = find_site(name) if name else None
    return str(found) if found else name or None


def hook_name(name: str | None) -> str | None:
    """A site's TransformerLens name, `blocks.12.hook_resid_post`; a place that is no site keeps its name."""
    found = find_site(name) if name else None
    return found.hook_name() if found else name
