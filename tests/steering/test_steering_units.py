"""Strength by norm share and by equal KL; perplexity by the unsteered model only."""

import math
from dataclasses import replace

import pytest
import torch

from saelab.core.errors import UserError
from saelab.lm.tiny import tiny_lm
from saelab.steering import units
from saelab.steering.concepts.perplexity import unsteered_perplexity
from saelab.steering.direction import Direction, unit

LM, SITE, D = tiny_lm(), "resid_post.1", 32


def directions(n: int = 4) -> list[Direction]:
    g = torch.Generator().manual_seed(0)
    made = {"site": SITE, "distance": 1.0, "method": "m", "source": "s"}
    return [unit(torch.randn(D, generator=g), **made, origin=str(i)) for i in range(n)]


def kl_of(direction: Direction, factor: float, prefix: str) -> float:
    """KL(base || steered) of the next token, the long way: two whole passes with and without the edit."""
    tokens = torch.tensor(LM.tokenize([prefix]))
    base = LM.logits(tokens)[0, -1].log_softmax(-1)
    steered = LM.logits(tokens, edits=[direction.edit(factor)])[0, -1].log_softmax(-1)
    return float((base.exp() * (base - steered)).sum())


def test_equal_kl_is_equal_and_equal_norm_is_not() -> None:
    found = units.by_equal_kl(LM, directions(), 0.05, prefixes=["One day", "The"])
    effects = [sum(kl_of(d, 1, p) for p in ("One day", "The")) / 2 for d in found]
    assert effects == pytest.approx([0.05] * 4, rel=0.01)
    assert len({round(d.distance, 3) for d in found}) == 4, "control: it took different distances"
    same = [kl_of(units.by_norm_share(d, 5.0), 0.5, "The") for d in directions()]
    assert max(same) > 1.2 * min(same), "control: at equal norm the effects differ"
    assert {d.distance_source for d in found} == {"KL of 0.05 nats"}


def test_a_kl_out_of_reach_is_a_sentence() -> None:
    with pytest.raises(UserError, match="does not reach"):
        units.by_equal_kl(LM, directions(1), 0.5, reach=1e-4)
    with pytest.raises(UserError, match="positive KL"):
        units.by_equal_kl(LM, directions(1), 0.0)
    with pytest.raises(UserError, match="one site"):
        units.by_equal_kl(LM, [*directions(1), replace(directions(1)[0], site="resid_post.0")], 0.1)


def test_a_norm_share_is_a_share_of_the_median_norm() -> None:
    texts = ["The cat sat.", "On the mat."]
    norm = units.typical_norm(LM, SITE, texts)
    assert norm == pytest.approx(float(LM.capture(texts, [SITE])[SITE].norm(dim=-1).median()))
    assert units.by_norm_share(directions()[0], norm).strength(0.5) == pytest.approx(norm / 2)
    assert units.raw(replace(directions()[0], distance=7.0)).strength(3) == 3


def test_perplexity_is_the_unsteered_models_given_the_plain_instruction() -> None:
    """Equal to transformers' own likelihood of the text after the instruction; a steered model would say otherwise."""
    asked, text = "Say it.", " yes indeed"
    found = unsteered_perplexity(LM, [asked, asked], [text, ""])
    prompt, new = LM.chat(asked), LM.tokenize([text], bos=False)[0]
    tokens = torch.tensor([[*prompt, *new]])
    log_p = LM.model(tokens).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(new) - 1)
    nll = -sum(float(log_p[at, token]) for at, token in zip(places, new, strict=True)) / len(new)
    assert found[0] == pytest.approx(math.exp(nll), rel=1e-4) and found[1] is None
    edit = directions()[0].edit(20)
    steered = LM.logits(tokens, edits=[edit])[0].log_softmax(-1)
    other = -sum(float(steered[at, token]) for at, token in zip(places, new, strict=True)) / len(new)
    assert abs(math.exp(other) / found[0] - 1) > 0.05, "control"
    with pytest.raises(UserError, match="2 texts"):
        unsteered_perplexity(LM, [asked], [text, text])
