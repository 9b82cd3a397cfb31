"""The gate's error rates in a planted world: it passes where steering works, and not where readers or directions are
random; too strong steering falls; an SAE of the planted directions exceeds a random dictionary.
"""

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
from planted_steering import GROUPS, SITE, SMALL, Letters, World, planted_classes

from saelab.activations.shards import ActivationShards
from saelab.core.errors import FetchError, UserError
from saelab.instrument import run as stage
from saelab.instrument.classes import classes_in, halved
from saelab.instrument.config import GateConfig
from saelab.instrument.gate import Gate
from saelab.instrument.kept import digest_of_sae
from saelab.instrument.lifts import GateLift
from saelab.instrument.run import run
from saelab.saes.base import Sae
from saelab.saes.catalogue import TopKConfig
from saelab.store.resumable import Resumable
from saelab.text.corpora import CorpusConfig
from saelab.training.sweep import train

# As small as a gate can be, for what does not ask whether it sees.
LEAST = SMALL.model_copy(update={"doses": (0.4,), "dev_copies": 2, "n_features": 6})
FEW, MANY = range(10), range(100)


def control(gate: Gate, name: str, outcome: str = "described") -> GateLift:
    return next(c for c in gate.lifts if (c.name, c.outcome) == (name, outcome))


def passes(seeds: range) -> tuple[int, int, int]:
    """How many seeds pass as planted, with shuffled readers, and with random directions."""
    counts = np.zeros(3, int)
    for seed in seeds:
        world = World(seed)
        for i, classes in enumerate((world.classes, world.with_shuffled_readers(), world.with_random_directions())):
            counts[i] += world.gate(classes).passed
    return int(counts[0]), int(counts[1]), int(counts[2])


def test_the_gate_tells_steering_from_none_in_ten_seeds() -> None:
    planted, shuffled, random = passes(FEW)
    assert planted >= 9 and shuffled <= 1 and random <= 1


@pytest.mark.sweep
def test_the_gate_tells_steering_from_none_in_a_hundred_seeds() -> None:
    planted, shuffled, random = passes(MANY)
    assert planted >= 95 and shuffled <= 5 and random <= 5


def test_too_strong_steering_falls(world: World) -> None:
    """The dose response: where the model only writes one letter, the lift falls far below the best dose's."""
    strong = World(0, SMALL.model_copy(update={"doses": (0.4, 1.2, 6.0)}))
    found = strong.gate().doses.filter(outcome="described")
    lifts, distinct = found["lift"].to_list(), found["distinct"].to_list()
    assert lifts[2] < 0.6 * max(lifts) and distinct[2] < distinct[0]


def test_features_of_planted_directions_exceed_a_random_dictionary(world: World) -> None:
    found = world.gate(sae=world.classes)
    less = control(found, "sae_less_random_dictionary")
    assert found.passed and less.holds and less.low is not None and less.low > 0 and (less.p or 1) < 0.05
    # Control: a second random dictionary does not exceed the first, and the gate says so.
    other = World(1).random
    failed = world.gate(sae=other)
    assert failed.state == "failed" and control(failed, "sae_less_random_dictionary").holds is False
    assert "cannot be told" in failed.sentence and "cannot see" not in failed.sentence


def test_every_control_has_its_figures(world: World) -> None:
    found = world.gate()
    for name, outcome in (("classes", "described"), ("classes", "read_back"), ("random_dictionary", "described")):
        one = control(found, name, outcome)
        assert one.value is not None and one.low is not None and one.high is not None
        assert one.low <= one.value <= one.high and one.n in (len(GROUPS), SMALL.n_features) and one.holds
    half = control(found, "random_dictionary").bound
    assert half == pytest.approx((control(found, "classes").value or 0) / 2)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["passed"] and len(record["dose_response"]) == 2 * len(SMALL.doses)
    assert set(found.strengths) == {"classes", "random_dictionary"}


@pytest.fixture
def corpus(tmp_path: Path, world: World) -> CorpusConfig:
    path = tmp_path / "corpus.csv"
    pl.DataFrame({"text": [text for c in planted_classes(0) for text in c.steer + c.read]}).write_csv(path)
    return CorpusConfig(source=f"path:{path}")


def test_a_killed_gate_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, world: World, corpus: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a step that it left has another bit by now: that one is done again."""

    def start(folder: Path) -> Gate:
        config = LEAST.model_copy(update={"contexts": 16})
        return run(config, world.lm, SITE, folder, classes=planted_classes(0), corpus=corpus, embed=Letters())

    start(tmp_path / "whole")
    written: list[Path] = []
    real = Resumable.write

    def killed(held: Resumable, path: Path, write: Callable[[Path], object]) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        real(held, path, write)

    monkeypatch.setattr(Resumable, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "torn")
    assert not (tmp_path / "torn" / "instrument.json").exists()
    content = bytearray(written[1].read_bytes())
    content[len(content) // 2] ^= 1
    written[1].write_bytes(content)
    again: list[Path] = []
    monkeypatch.setattr(Resumable, "write", lambda held, path, write: (again.append(path), real(held, path, write)))
    start(tmp_path / "torn")
    assert set(written) & set(again) == {written[1]}
    for path in sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "torn" / path.relative_to(tmp_path / "whole")).read_bytes(), path.name


def test_gates_of_several_saes_share_what_is_not_their_own(tmp_path: Path, world: World, corpus: CorpusConfig) -> None:
    config = LEAST.model_copy(update={"contexts": 16, "width": 64})

    def start(sae: Sae | None) -> dict[str, int]:
        run(
            config,
            world.lm,
            SITE,
            tmp_path / "gate",
            classes=planted_classes(0),
            sae=sae,
            corpus=corpus,
            embed=Letters(),
        )
        return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "gate" / "texts").iterdir()}

    before = start(None)
    shards = ActivationShards(tmp_path / "gate" / "activations" / SITE)
    sae = train([TopKConfig(d_in=world.lm.d_model, d_sae=64, k=8)], shards, steps=20, batch=64)[0]
    after = start(sae)
    assert before.items() <= after.items()  # nothing was written again
    assert any(name.startswith("sae.") for name in set(after) - set(before))


def test_without_classes_nothing_is_gated(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*, taken: int) -> None:
        raise FetchError("sae-probes could not be downloaded.")

    monkeypatch.setattr(stage, "embedded_classes", refuse)
    found = run(LEAST, world.lm, SITE, tmp_path, embed=Letters())
    assert found.state == "not_gated" and not found.passed and "Not gated" in found.sentence
    assert json.loads((tmp_path / "instrument.json").read_text())["state"] == "not_gated"


def test_classes_of_the_user(tmp_path: Path) -> None:
    texts = {name: [f"{name} text number {i}" for i in range(20)] for name in ("a", "b", "c", "d", "e")}
    table = tmp_path / "table.csv"
    rows = [{"text": t, "kind": name} for name, part in texts.items() for t in part]
    pl.DataFrame(rows).write_csv(table)
    labelled = classes_in([table], label="kind")
    files = []
    for name, part in texts.items():
        files.append(tmp_path / f"{name}.csv")
        pl.DataFrame({"text": part}).write_csv(files[-1])
    assert classes_in(files) == labelled
    for one in labelled:
        assert not set(one.steer) & set(one.read) and len(one.steer) == len(one.read) == 10
    assert halved({k: v[::-1] for k, v in texts.items()}) == labelled  # the order of the texts does not matter
    with pytest.raises(UserError, match="at least 5 classes"):
        classes_in(files[:4])
    with pytest.raises(UserError, match="at least 16"):
        halved(texts | {"f": ["one"]})
    with pytest.raises(UserError, match="no column 'kid'"):
        classes_in([table], label="kid")


def test_a_text_stands_in_one_half_of_one_class(tmp_path: Path) -> None:
    texts = {name: [f"{name} text number {i}" for i in range(20)] for name in ("a", "b", "c", "d", "e")}
    blanks = texts | {"a": [*texts["a"], *(f"{t} " for t in texts["a"])]}
    assert halved(blanks) == halved(texts), "a blank makes no other text"
    with pytest.raises(UserError, match="without 20 that stand in other classes too"):
        halved(texts | {"f": texts["a"]})
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="Two files of classes are called 'a'"):
        classes_in([tmp_path / "a.csv", tmp_path / "other" / "a.jsonl"])


def test_another_request_in_the_same_folder_reads_its_own_text(tmp_path: Path, world: World) -> None:
    config = LEAST.model_copy(update={"contexts": 16, "width": 64})
    made = []
    for first in ("one", "two"):
        (tmp_path / f"{first}.txt").write_text("\n\n".join(f"{first} {k} word a b c d e f " * 30 for k in range(60)))
        corpus = CorpusConfig(source=f"path:{tmp_path / first}.txt", documents="blank_lines")
        run(config, world.lm, SITE, tmp_path / "gate", classes=planted_classes(0), corpus=corpus, embed=Letters())
        made.append((tmp_path / "gate" / "tokens" / "tokens.safetensors").read_bytes())
    assert made[0] != made[1]


def test_an_sae_is_known_by_every_number_of_it() -> None:
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    one, same, turned = (Mock(Sae, weights=lambda w=w: {"W_dec": w}) for w in (weights, weights.clone(), -weights))
    assert digest_of_sae(one) == digest_of_sae(same)
    assert digest_of_sae(one) != digest_of_sae(turned), "a sum of squares would be the same"


def test_sizes_that_cannot_tell_are_refused() -> None:
    with pytest.raises(UserError, match="16 texts"):
        GateConfig.parse({"test_copies": 1})
    for name, value in (("temperature", 0.0), ("doses", [0.0]), ("doses", [0.3, 0.3])):
        with pytest.raises(UserError, match=name):
            GateConfig.parse({name: value})
    with pytest.raises(UserError, match="30 unsteered"):
        GateConfig.parse({"unsteered_copies": 2})
