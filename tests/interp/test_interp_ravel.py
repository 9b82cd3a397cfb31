"""RAVEL on a model that answers from two blocks of the entity's vector: axes disentangle them, mixtures cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from saebench_fields import problems
from test_interp_core import D, drawn, sae_of
from torch import Tensor

from saelab.core.errors import UserError
from saelab.interp.suite import ravel
from saelab.interp.suite.facts import Facts, RavelConfig, prompts_of, read_facts
from saelab.interp.suite.ravel import pairs_of
from saelab.interp.suite.saebench_json import record
from saelab.lm.tiny import tiny_lm

CONFIG = RavelConfig(attributes=("Country", "Language"), num_pairs_per_attribute=80, num_epochs=4, batch_size=16)
CASES = 6


class TwoBlocks:
    """Position 0 is the entity: country in coordinates 0 to 5, language in 6 to 11. Position 1 asks for one of them."""

    def run_from(self, hidden: Tensor, site: str, *, mask: Tensor | None = None, last: bool = False) -> Tensor:
        del site, mask, last
        entity, asked = hidden[:, 0], hidden[:, 1, :2]
        blocks = torch.zeros(len(hidden), D)
        blocks = blocks.index_add(1, torch.arange(CASES), asked[:, :1] * entity[:, :CASES])
        blocks = blocks.index_add(1, torch.arange(CASES, 2 * CASES), asked[:, 1:] * entity[:, CASES : 2 * CASES])
        return 10 * blocks[:, None]


def facts() -> Facts:
    generator = np.random.default_rng(0)
    rows = [(int(c), int(k), a) for c, k in generator.integers(0, CASES, size=(60, 2)) for a in (0, 1)]
    hidden = torch.zeros(len(rows), 2, D)
    for i, (country, language, asked) in enumerate(rows):
        hidden[i, 0, country] = hidden[i, 0, CASES + language] = 1.0
        hidden[i, 1, asked] = 1.0
    answers = [c if a == 0 else CASES + k for c, k, a in rows]
    return Facts(
        hidden,
        torch.ones(len(rows), 2, dtype=torch.bool),
        torch.zeros(len(rows), dtype=torch.int64),
        torch.tensor(answers),
        torch.tensor([a for _, _, a in rows]),
        torch.arange(len(rows)) // 2,
    )


def scores(directions: Tensor) -> dict[str, float | int | None]:
    result = ravel.evaluate(TwoBlocks(), "s", facts(), sae_of(directions, k=len(directions)), CONFIG, 0)
    assert problems(record(result, sae_of(directions, k=len(directions)), "x", version="0")) == []
    return dict(result.metrics["ravel"])


def test_axes_disentangle_and_mixtures_do_not() -> None:
    oracle = scores(torch.eye(D))
    assert oracle["cause_score"] == 1 and oracle["isolation_score"] == 1
    # every latent carries a country and a language: what is exchanged takes the other along
    mixed = torch.nn.functional.normalize(torch.eye(D) + torch.eye(D).roll(CASES, 1), dim=1)
    mixed = torch.cat([mixed[:CASES], torch.eye(D)[2 * CASES :]])
    assert (scores(mixed)["disentanglement_score"] or 0) < 0.8
    nothing = scores(drawn(1, D)[:1] * 0 + torch.eye(D)[-1:])  # no latent for either: the answer is lost
    assert (nothing["cause_score"] or 0) < 0.4


def test_pairs_change_the_asked_value_or_keep_it() -> None:
    known = facts()
    pairs = pairs_of(known, 0, 40, 7)
    answer = known.answer.numpy()
    assert pairs.cause.sum() == 40 and (~pairs.cause).sum() == 40
    assert (pairs.target == np.where(pairs.cause, answer[pairs.source], answer[pairs.base])).all()
    assert (answer[pairs.source] != answer[pairs.base]).all()
    assert (known.attribute.numpy()[pairs.base] == 0).tolist() == pairs.cause.tolist()


def test_a_model_that_knows_nothing_has_no_score() -> None:
    known = facts()
    none = Facts(*(v[:0] for v in vars(known).values()))
    result = ravel.evaluate(TwoBlocks(), "s", none, sae_of(torch.eye(D), k=D), CONFIG, 0)
    assert result.metrics["ravel"]["cause_score"] is None and "knows 0" in (result.reason or "")


def tables(folder: Path) -> str:
    prompts = {"Country": ["%s is in", 'x "%s": "'], "Language": ["In %s they speak"]}
    cities = {f"City{i}": {"Country": "AB"[i % 2] + "land", "Language": "CD"[i // 2 % 2] + "ish"} for i in range(8)}
    (folder / "ravel_city_attribute_to_prompts.json").write_text(json.dumps(prompts))
    (folder / "ravel_city_entity_attributes.json").write_text(json.dumps(cities))
    return f"path:{folder}"


def test_facts_are_read_at_the_entity_and_kept_where_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, config = tiny_lm(), CONFIG.model_copy(update={"templates": 5, "entities": 8})
    data = tables(tmp_path)
    prompts = prompts_of(lm, tmp_path, config, 0)
    assert len(prompts) == 3 * 8
    for p in prompts:
        assert lm.decode(p.ids[: p.position + 1]).rstrip("0123456789").endswith("City")
        assert lm.decode([p.answer]) in set(" ABCD")
    # make the model "know" everything, to see that what is read is the entity's own activation
    real = lm.run_from
    by_ids = {p.ids: p.answer for p in prompts}
    seen: list[tuple[int, ...]] = []
    original = lm.run_to

    def run_to(tokens: Tensor, sites: object, *, mask: Tensor | None = None) -> dict[str, Tensor]:
        for i, row in enumerate(tokens.tolist()):
            seen.append(tuple(row if mask is None else [t for t, m in zip(row, mask[i].tolist(), strict=True) if m]))
        return original(tokens, sites, mask=mask)  # type: ignore[arg-type]

    def run_from(hidden: Tensor, site: str, **rest: object) -> Tensor:
        logits = real(hidden, site, **rest)  # type: ignore[arg-type]
        for i, ids in enumerate(seen[-len(logits) :]):
            logits[i, -1, by_ids[ids]] = 1e6
        return logits

    monkeypatch.setattr(lm, "run_to", run_to)
    monkeypatch.setattr(lm, "run_from", run_from)
    known = read_facts(lm, data, ["resid_post.0", "resid_post.1"], config, batch_size=5)["resid_post.1"]
    assert len(known.position) == 24 and set(known.attribute.tolist()) == {0, 1}
    monkeypatch.undo()
    p = sorted(prompts, key=lambda q: len(q.ids))[0]
    direct = lm.run_to(torch.tensor([p.ids]), ["resid_post.1"])["resid_post.1"][0, p.position]
    torch.testing.assert_close(known.hidden[0, known.position[0]].float(), direct, atol=0.05, rtol=0.05)
    with pytest.raises(UserError, match="There is no"):
        prompts_of(lm, tmp_path / "nowhere", config, 0)
