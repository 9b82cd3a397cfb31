"""Sites: every accepted spelling names the same place; anything else is refused with the nearest names."""

import pytest

from saelab.core.errors import UserError
from saelab.core.sites import KINDS, Site, hook_name, house_name, parse_site


@pytest.mark.parametrize(
    "name",
    [
        "resid_post.12",
        "blocks.12.hook_resid_post",
        "model.layers.12",
        "layers.12",
        "transformer.h.12",
        "h.12",
        "model.layers.12.output",
        "resid_post_layer_12",
    ],
)
def test_spellings_of_a_block_output(name: str) -> None:
    assert parse_site(name) == Site("resid_post", 12)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.mlp", "mlp_out"),
        ("model.layers.3.pre_feedforward_layernorm", "mlp_in"),
        ("blocks.3.attn.hook_z", "z"),
        ("blocks.3.mlp.hook_in", "mlp_in"),
        ("model.layers.3.self_attn", "attn_out"),
        ("transformer.h.3.attn", "attn_out"),
    ],
)
def test_spellings_of_parts(name: str, kind: str) -> None:
    assert str(parse_site(name)) == f"{kind}.3"


@pytest.mark.parametrize("kind", KINDS)
def test_printing_and_parsing_are_inverse(kind: str) -> None:
    site = parse_site(f"{kind}.7")
    assert parse_site(str(site)) == site == parse_site(site.hook_name()) == parse_site(site)
    assert site.hook_name() == f"blocks.7.{ {'z': 'attn.hook_z', 'mlp_in': 'mlp.hook_in'}.get(kind, f'hook_{kind}') }"


@pytest.mark.parametrize(
    "name",
    ["resid_pots.4", "blocks.4.hook_z", "layers", "blocks.4.mlp.hook_mlp_out", "resid_post.-1", "layers.4.norm", ""],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="Valid: resid_post"):
        parse_site(name)


@pytest.mark.parametrize("name", ["blocks.4.hook_mlp_in", "blocks.4.ln2.hook_normalized"])
def test_a_spelling_that_means_two_things_is_refused_with_both(name: str) -> None:
    with pytest.raises(UserError, match=r"resid_mid\.4.*mlp_in\.4"):
        parse_site(name)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UserError, match=r"Did you mean resid_post\.4"):
        parse_site("resid_pots.4")


def test_a_place_that_is_no_site_keeps_its_name() -> None:
    assert house_name("blocks.4.hook_z") == hook_name("blocks.4.hook_z") == "blocks.4.hook_z"
    assert (house_name("blocks.4.hook_mlp_out"), hook_name("mlp_out.4")) == ("mlp_out.4", "blocks.4.hook_mlp_out")
    assert house_name("attention_out_layer_4") == "attn_out.4"
    assert house_name("") is house_name(None) is None
