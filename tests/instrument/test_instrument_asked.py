"""A reader that is asked: whom it is asked about, what missing cells do, and that it sees planted steering."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from planted_steering import GROUPS, SMALL, World

from fake_endpoint import FakeEndpoint
from saelab.core.errors import UserError
from saelab.core.records import Judgement
from saelab.core.seeds import numpy_generator
from saelab.instrument.asked import AskedReader, matrix_asked, reader_of
from saelab.instrument.bench import Bench
from saelab.instrument.config import GateConfig, InstrumentConfig
from saelab.instrument.gate import Gate, Sets, gate
from saelab.instrument.kept import opened, states_asked
from saelab.instrument.lifts import exchanged_readers
from saelab.instrument.outcomes import UNSTEERED, Texts, by_feature, lifts, percentiles
from saelab.instrument.readers import Features
from saelab.judges.client import Request
from saelab.judges.local import LocalJudge
from saelab.judges.scripted import Answer, ScriptedJudge, always
from saelab.lm.tiny import tiny_lm
from saelab.store.folders import InstrumentFolder


def owners(k: int, each: int, unsteered: int) -> np.ndarray:
    return np.array([f for f in range(k) for _ in range(each)] + [UNSTEERED] * unsteered)


@pytest.mark.parametrize(("k", "each", "unsteered", "wrong"), [(16, 4, 40, 7), (9, 2, 30, 3), (6, 16, 44, 7)])
def test_every_feature_is_asked_of_equally_many_texts_of_others(k: int, each: int, unsteered: int, wrong: int) -> None:
    owner = owners(k, each, unsteered)
    asked = AskedReader(always(0), wrong=wrong, seed=0).asked(owner, k)
    for feature, row in zip(owner.tolist(), asked, strict=True):
        assert len(set(row)) == len(row) == min(wrong, k - 1) + 1
        assert feature == UNSTEERED or row[0] == feature
    others = Counter(r for f, row in zip(owner.tolist(), asked, strict=True) if f != UNSTEERED for r in row[1:])
    plain = Counter(r for f, row in zip(owner.tolist(), asked, strict=True) if f == UNSTEERED for r in row)
    assert set(others.values()) == {each * min(wrong, k - 1)}
    assert max(plain.values()) - min(plain[f] for f in range(k)) <= 1
    assert asked == AskedReader(always(1), wrong=wrong, seed=0).asked(owner, k)
    if wrong < k - 1:  # control: another seed asks others, and a plain draw is not balanced
        assert asked != AskedReader(always(0), wrong=wrong, seed=1).asked(owner, k)
        rng = numpy_generator("unbalanced")
        drawn = Counter(int(r) for f in owner.tolist() if f >= 0
                        for r in rng.choice(np.delete(np.arange(k), f), wrong, replace=False))  # fmt: skip
        assert len(set(drawn.values())) > 1


def test_missing_cells_by_hand() -> None:
    values = np.array([[2.0, np.nan, 1.0], [0.0, 1.0, np.nan], [1.0, 0.0, 0.0]])
    p = percentiles(values, np.array([0, 1, UNSTEERED]))
    # Reader 0 was asked of texts 1 and 2 beside its own; reader 1 of text 2 alone; reader 2 of texts 0 and 2.
    np.testing.assert_allclose(p, [[1, np.nan, 0.75], [0.25, 1, np.nan], [0.75, 0.5, 0.25]])
    score = np.array([[2.0, np.nan, 0.5], [np.nan, 1.0, np.nan], [np.nan, 0.5, 0.5]])
    found = lifts(score, np.array([0, 1, 0]))
    # With nobody to compare with, and without an own score, there is no lift: never the bare score, never 0.
    np.testing.assert_allclose(found, [1.5, np.nan, np.nan])


def thinned(values: np.ndarray, owner: np.ndarray, wrong: int, seed: int) -> np.ndarray:
    """What is left of a whole matrix where only some readers are asked."""
    found = np.full(values.shape, np.nan)
    for i, row in enumerate(AskedReader(always(0), wrong=wrong, seed=seed).asked(owner, values.shape[1])):
        found[i, row] = values[i, row]
    return found


def test_the_lift_by_some_readers_is_that_by_all() -> None:
    """Without bias: over many draws the mean lift is the same, with and without steering."""
    k, owner = 24, owners(24, 2, 40)
    n = len(owner)
    texts = Texts(owner, np.full(n, False), np.full(n, 3.0), np.full(n, np.nan), np.ones(n))
    for strength in (0.0, 1.5):
        all_of_them, some = [], []
        for seed in range(20):
            values = numpy_generator("thinned", seed).normal(size=(n, k))
            values[np.arange(2 * k), owner[: 2 * k]] += strength
            all_of_them.append(by_feature(values, texts)["lift"].mean())
            some.append(by_feature(thinned(values, owner, 7, seed), texts)["lift"].mean())
        apart = np.array(some) - np.array(all_of_them)
        assert abs(apart.mean()) < 2.5 * apart.std() / np.sqrt(20)
        assert (np.mean(some) > 0.3) == (strength > 0)  # control: what steering makes of it is far larger


def test_exchanged_readers_take_missing_cells() -> None:
    owner = owners(12, 8, 40)
    n = len(owner)
    texts = Texts(owner, np.full(n, False), np.full(n, 3.0), np.full(n, np.nan), np.ones(n))
    values = numpy_generator("exchanged").normal(size=(n, 12))
    null = [exchanged_readers(thinned(numpy_generator("null", s).normal(size=(n, 12)), owner, 4, s), texts, seed=0)
            for s in range(20)]  # fmt: skip
    values[np.arange(96), owner[:96]] += 2
    assert (exchanged_readers(thinned(values, owner, 4, 0), texts, seed=0) or 1) < 0.01
    assert sum((p or 0) <= 0.05 for p in null) <= 4


def letters(request: Request) -> Answer:
    """The share of a text's letters that are of the group that is asked about, as a rating."""
    assert request.description is not None and request.task == "concept" and request.graded
    group = request.description.text.split("\n")[0]
    text = request.judged_text()
    return 2 * sum(c in group for c in text) / max(1, len(text))


def gated(world: World, reader: AskedReader, classes: Features | None = None) -> Gate:
    """The planted gate, read by a judge."""
    return gate(Bench(world.config, replace(world.desk, embed=reader), world.probe, lambda name, write: write()),
                Sets(world.classes if classes is None else classes, world.random))  # fmt: skip


def test_a_judge_sees_planted_steering_and_only_that(world: World) -> None:
    assert world.classes.about[0].startswith(GROUPS[0])
    seen = gated(world, AskedReader(ScriptedJudge(letters), wrong=3, seed=0))
    assert seen.passed, seen.sentence
    blind = gated(world, AskedReader(always(1), wrong=3, seed=0))
    assert blind.state == "failed" and "no_dev_signal" in blind.sentence
    shuffled = replace(world.classes, about=tuple(np.roll(np.array(world.classes.about, object), 1)))
    assert gated(world, AskedReader(ScriptedJudge(letters), wrong=3, seed=0), shuffled).state == "failed"


def test_what_cannot_be_read_is_a_state_and_never_a_number(world: World, tmp_path: Path) -> None:
    texts = [Judgement("unparsed", None, "scripted", "garbled"), Judgement("refused", None, "scripted", "no")]

    def now_and_then(request: Request) -> Answer:
        odd = len(request.judged_text()) % 5
        return texts[odd] if odd < 2 else letters(request)

    kept = InstrumentFolder(tmp_path)
    reader = AskedReader(ScriptedJudge(now_and_then), wrong=3, seed=0)
    bench = Bench(world.config, replace(world.desk, embed=reader), world.probe, opened(kept, {"of": "test"}))
    found = bench.measured("classes", world.classes, 0.4, range(2), bench.distance("classes", world.classes, 0.4))
    read = kept.step("classes.0.4.read").read()
    states = Counter(read["state"].explode().to_list())
    assert states_asked(kept) == dict(sorted(states.items())) and set(states) == {"ok", "unparsed", "refused"}
    odd = read.explode("asked", "rating", "state").filter(pl.col("state") != "ok")
    assert odd["rating"].null_count() == odd.height > 0
    values = matrix_asked(read, len(world.classes))
    assert np.isfinite(values).sum() == states["ok"]
    table = found.tables["described"]
    own = np.array([values[i, k] for i, k in enumerate(found.steered["owner"])])
    assert table["n_missing"].sum() == int(np.isnan(own).sum()) > 0
    assert table["n_texts"].sum() == found.steered.height


def test_a_paid_reader_is_asked_once_and_what_it_garbles_is_asked_again(world: World, tmp_path: Path) -> None:
    def odd(prompt: str) -> bool:
        return len(prompt) % 7 == 0

    endpoint = FakeEndpoint(
        lambda n, body: "garbled" if odd(body["messages"][0]["content"]) else "ok",
        answer=lambda prompt: f"So it is.\nRating: [[{len(prompt) % 3}]]",
    )
    named = {"name": "openai:fake-1", "base_url": endpoint.url, "max_missing": 1.0}
    config = GateConfig.parse(SMALL.model_dump() | {"reader": named, "readers_asked": 3})
    table = world.desk.write("some", world.desk.jobs(range(6), 0.4, 1.0, range(2)), world.classes.directions)
    read, calls = [], []
    try:
        for _ in range(2):
            reader = reader_of(config, tmp_path / "replies.sqlite")
            assert isinstance(reader, AskedReader) and reader.name.startswith("openai:fake-1@")
            read.append(reader.readings(table, world.classes))
            calls.append(len(endpoint.calls))
            reader.close()
    finally:
        endpoint.close()
    assert read[0].equals(read[1])
    states = read[0]["state"].explode().to_list()
    n_odd = sum(odd(body["messages"][0]["content"]) for body in endpoint.calls[: calls[0]])
    assert set(states) == {"ok", "unparsed"} and len(states) == table.height * 4
    assert set(read[0]["rating"].explode().to_list()) == {None, 0.0, 1.0, 2.0}
    assert calls[1] - calls[0] == n_odd > 0, "only what had no answer is asked again"


def test_a_local_judge_grades_where_it_is_asked_to() -> None:
    judge = LocalJudge(tiny_lm())
    asked = [Request("fluency", f"text {i}", graded=graded) for i in range(4) for graded in (True, False)]
    graded, plain = (np.array([a.value for a in judge.judge(asked)[first::2]], float) for first in (0, 1))
    assert set(plain) <= {0.0, 1.0, 2.0}
    assert ((graded > 0) & (graded < 2)).all() and not np.isin(graded, (0.0, 1.0, 2.0)).any()
    assert np.array_equal(graded, [a.value for a in judge.judge(asked)[::2]])


def test_readers_are_named_in_one_grammar() -> None:
    def settings(reader: object) -> dict[str, object]:
        return InstrumentConfig.parse({"reader": reader}).settings

    assert settings("embedding")["reader"] == "embedding" and "readers_asked" not in settings("embedding")
    assert settings("local:smollm2-135m")["reader"] == {"name": "local:smollm2-135m", "system": None}
    cheap, dear = ({"name": "openai:m", "base_url": "http://localhost/v1", "price": p} for p in ((1, 1), (2, 2)))
    assert settings(cheap) == settings(dear) != settings("openai:m"), "what it costs is no part of what it answers"
    for wrong in ("openai", "lokal:x", "embeddings", {"name": "lexical"}, "lexical:x"):
        with pytest.raises(UserError, match="there is no reader"):
            settings(wrong)
