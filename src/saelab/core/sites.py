"""Sites: where in the network an activation is read or changed.

A site is a kind and a block number L. With the stream the sum that the blocks add to, one row per token:

    resid_pre   the stream before block L
    z           the heads' outputs side by side, before the projection that mixes them: [n_heads * d_head]
    attn_out    what attention adds to the stream
    resid_mid   the stream after that (no such place where attention and MLP read the same stream: GPT-NeoX, Phi)
    mlp_in      what the MLP itself reads, after its norm
    mlp_out     what the MLP adds to the stream
    resid_post  the stream after block L: transformers' `hidden_states[L+1]` (which holds of the last block the stream
                *after the final norm*; here it is before it, as at every other block)

This module knows names only, never a model.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from saelab.core.errors import UserError, nearest

Kind = Literal["resid_post", "resid_pre", "attn_out", "mlp_out", "resid_mid", "mlp_in", "z"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SHORT = re.compile(r"(?P<kind>[a-z_]+)\.(?P<layer>\d+)")
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<kind>(?:attn\.|mlp\.)?hook_[a-z_]+)")
_MODULE = re.compile(
    r"(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h)\.(?P<layer>\d+)"
    r"(?:\.(?P<part>mlp|post_feedforward_layernorm|pre_feedforward_layernorm|self_attn|attn|attention))?(?:\.output)?"
)
_LISTED = re.compile(r"(?P<kind>[a-z_]+)_layer_(?P<layer>\d+)")  # dictionary_learning
_PARTS: dict[str | None, Kind] = {
    None: "resid_post",
    "mlp": "mlp_out",
    "post_feedforward_layernorm": "mlp_out",  # Gemma 2 and 3, OLMo 2: what is added to the stream
    "pre_feedforward_layernorm": "mlp_in",  # of the same families: what the MLP reads
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
}
_ALIASES = {"attention_out": "attn_out"}
# TransformerLens' names where they are not `hook_` and the kind. Its `hook_mlp_in` is the stream before the MLP's norm,
# and of an RMS norm its `ln2.hook_normalized` lacks the norm's gain: neither is what the MLP reads, and neither parses.
_HOOKS: dict[Kind, str] = {"z": "attn.hook_z", "mlp_in": "mlp.hook_in"}
_OF_HOOK: dict[str, Kind] = {_HOOKS.get(kind, f"hook_{kind}"): kind for kind in KINDS}


@dataclass(frozen=True, order=True)
class Site:
    """A place in the network: `kind` and block number `layer` (from 0)."""

    kind: Kind
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    def hook_name(self) -> str:
        """The TransformerLens name, `blocks.12.hook_resid_post`."""
        return f"blocks.{self.layer}.{_HOOKS.get(self.kind, f'hook_{self.kind}')}"

    @property
    def of_stream(self) -> bool:
        """Whether it is the whole stream between two blocks, so that a pass can start with it alone."""
        return self.kind in ("resid_pre", "resid_post")


def find_site(name: str) -> Site | None:
    """The site that a name means in any accepted spelling (see `parse_site`), or None."""
    if match := _MODULE.fullmatch(name):
        return Site(_PARTS[match["part"]], int(match["layer"]))
    kind: Kind | None
    if match := _HOOK.fullmatch(name):
        kind = _OF_HOOK.get(match["kind"])
    elif match := _LISTED.fullmatch(name) or _SHORT.fullmatch(name):
        named = _ALIASES.get(match["kind"], match["kind"])
        kind = next((kind for kind in KINDS if kind == named), None)
    else:
        return None
    return None if kind is None else Site(kind, int(match["layer"]))


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
    if re.fullmatch(r"blocks\.\d+\.(hook_mlp_in|ln2\.hook_normalized)", name):
        raise UserError(
            f"{name!r} is not what the MLP reads in every model, so it is not taken for it.",
            hint=f"Say resid_mid.{number} for the stream before the MLP's norm, mlp_in.{number} for what comes after.",
        )
    raise UserError(
        f"{name!r} is not a site.",
        hint=nearest(name, [f"{k}.{number}" for k in KINDS] + [f"blocks.{number}.hook_resid_post", f"layers.{number}"]),
    )


# The kinds of a block's sites in the order in which it makes them.
ORDER: tuple[Kind, ...] = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")


def in_stream(site: Site) -> bool:
    """Whether a direction at the site is one of the stream: as it is, or through the heads' projection (z).

    What the MLP reads goes through the MLP, so a direction there is none of the stream.
    """
    return site.kind != "mlp_in"


def missing(site: Site, model: str) -> str:
    """The sentence about a site that the blocks of a model do not have."""
    why = "attention and MLP read the same stream" if site.kind == "resid_mid" else "no module of its blocks is there"
    return f"{model} has no {site}: {why}."


def house_name(name: str | None) -> str | None:
    """A site's name as it is written here, `resid_post.12`; a place that is no site keeps the name it came with."""
    found = find_site(name) if name else None
    return str(found) if found else name or None


def hook_name(name: str | None) -> str | None:
    """A site's TransformerLens name, `blocks.12.hook_resid_post`; a place that is no site keeps its name."""
    found = find_site(name) if name else None
    return found.hook_name() if found else name
