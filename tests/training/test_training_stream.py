"""SAEs of several sites trained as the language model runs: the same bytes after any kill, and as of one site alone."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_tiny import SITES, opener, shares_of
from served import Runs, hashes, served

from saelab.activations.live import LiveActivations, open_stream
from saelab.core.errors import UserError
from saelab.saes.catalogue import training_config
from saelab.training import run as training
from saelab.training.checkpoint import Checkpoint
from saelab.training.config import TrainingConfig
from saelab.training.sweep import train, train_sites, train_transcoders

CONFIG = TrainingConfig(steps=40, batch=64, checkpoint_seconds=0, precision="float32", checkpoints=1)


@pytest.fixture(scope="module")
def opened() -> Callable[[], LiveActivations]:
    return opener()


def trained(opened: Callable[[], LiveActivations], folder: Path, seed: int = 3, **which: object) -> dict[str, str]:
    shares = shares_of(opened(), **which)
    training.run_shares(CONFIG, shares, saes=folder / "saes", folder=folder / "training", seed=seed)
    return hashes(folder)


@pytest.fixture(scope="module")
def whole(opened: Callable[[], LiveActivations], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of an uninterrupted run."""
    return trained(opened, tmp_path_factory.mktemp("whole"))


def test_killed_and_gone_on_gives_the_same_bytes(
    opened: Callable[[], LiveActivations], tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the first, and then after the second checkpoint that a call writes."""
    left, write = [1, 2, 99], Checkpoint.write

    def killed(self: Checkpoint, folder: Path, **how: int) -> None:
        write(self, folder, **how)
        assert len(list(folder.glob("step-*"))) == 1, "one is kept, as was asked for"
        left[0] -= 1
        if not left[0]:
            raise MemoryError

    monkeypatch.setattr(Checkpoint, "write", killed)
    for _ in range(2):
        with pytest.raises(MemoryError):
            trained(opened, tmp_path)
        left.pop(0)
    assert trained(opened, tmp_path) == whole
    assert len(whole) == 8


def test_a_checkpoint_of_another_order_is_not_gone_on_with(
    opened: Callable[[], LiveActivations], tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with a small buffer, begun again with that of `whole`. Control: the small buffer gives other weights."""
    write, kills = Checkpoint.write, [True]

    def killed(self: Checkpoint, folder: Path, **how: int) -> None:
        write(self, folder, **how)
        if kills[0]:
            raise MemoryError

    def small() -> LiveActivations:
        live = opened()
        live.buffer_rows, live.per_block = 64, 1
        return live

    monkeypatch.setattr(Checkpoint, "write", killed)
    with pytest.raises(MemoryError):
        trained(small, tmp_path / "run")
    kills[0] = False
    assert trained(opened, tmp_path / "run") == whole
    assert trained(small, tmp_path / "small") != whole


def test_a_site_alone_is_as_beside_another(
    opened: Callable[[], LiveActivations], tmp_path: Path, whole: dict[str, str]
) -> None:
    """Control: another order of the rows gives other weights."""
    alone = trained(opened, tmp_path / "alone", sites=SITES[:1])
    assert len(alone) == 4 and alone.items() <= whole.items()
    weights = {name for name in alone if name.endswith("safetensors")}
    order = trained(opened, tmp_path / "order", seed=4, sites=SITES[:1])
    assert weights and all(order[name] != alone[name] for name in weights)


def test_train_takes_a_stream(opened: Callable[[], LiveActivations]) -> None:
    cfg = training_config("topk", level=3, d_in=16, d_sae=48)
    stream = opened().at(SITES[0])
    assert float(stream.moments.mean.norm()) > 0
    one, same, other = (train([cfg], opened().at(SITES[0]), steps=9, batch=64, seed=s)[0] for s in (0, 0, 1))
    assert one.W_dec.equal(same.W_dec) and not one.W_dec.equal(other.W_dec)


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with served("stream") as found:
        yield found


@pytest.mark.sweep
def test_twenty_kills(runs: Runs, tmp_path: Path) -> None:
    """SIGKILL at random moments of one run after another, each several times; then the bytes of one that was not."""
    assert runs.finish(tmp_path / "whole") == 0
    found, moments = hashes(tmp_path / "whole"), random.Random(0)
    assert len(found) == 8
    for i in range(5):
        folder = tmp_path / str(i)
        for _ in range(4):
            runs.kill(folder, moments.uniform(0, 2))
        assert runs.finish(folder) == 0
        assert hashes(folder) == found, i


def test_sites_together_are_each_as_alone(opened: Callable[[], LiveActivations]) -> None:
    cfg = training_config("topk", level=3, d_in=16, d_sae=48)
    both = train_sites({site: [cfg] for site in SITES}, opened(), steps=9, batch=64)
    for site in SITES:
        (alone,) = train([cfg], opened().at(site), steps=9, batch=64)
        assert both[site][0].W_dec.equal(alone.W_dec) and both[site][0].cfg.site == site
    assert not both[SITES[0]][0].W_dec.equal(both[SITES[1]][0].W_dec)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda live, sae, _: train([sae], live.at(SITES[0]), steps=2, batch=0), "at least one row, not 0"),
        (lambda live, sae, _: train([sae], live.at(SITES[0]), steps=2, batch=-1), "at least one row, not -1"),
        (lambda live, *_: train_sites({}, live, steps=2), "no site"),
        (lambda live, _, coder: train_sites({SITES[0]: [coder]}, live, steps=2), "they are transcoders"),
        (lambda live, _, coder: train_transcoders([coder], live.at(SITES[0]), steps=2), "are of one site"),
        (lambda live, *_: LiveActivations(live.lm, live.packed, {}, buffer_rows=0), "at least one row, not 0"),
        (lambda live, *_: open_stream(live.lm, SITES[0], text=live.packed, sample_contexts=0), "one context, not 0"),
        (lambda live, *_: open_stream(live.lm, SITES[0], tokens=50), "50 tokens hold no context of 128"),
        (lambda live, *_: open_stream(live.lm, SITES[0], context=0), "no context of 0"),
    ],
)
def test_what_no_stream_gives_is_a_sentence(
    opened: Callable[[], LiveActivations], asked: Callable[..., object], words: str
) -> None:
    sae = training_config("topk", level=3, d_in=16, d_sae=48)
    coder = training_config("topk", level=3, d_in=16, d_out=16, d_sae=48)
    with pytest.raises(UserError, match=words):
        asked(opened(), sae, coder)
    assert train([sae], opened().at(SITES[0]), steps=1, batch=1), "control: a batch of one row"
