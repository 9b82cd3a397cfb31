"""Where the memory of a device ends, half as much is done at once, and the results are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saelab.activations import passes as passes_module
from saelab.activations import site as site_module
from saelab.activations.harvest import HarvestConfig, harvest
from saelab.activations.live import LiveActivations
from saelab.activations.shards import ActivationShards
from saelab.activations.site import read_states
from saelab.cli import main
from saelab.core import hardware
from saelab.core.errors import ResourceError
from saelab.lm import generate as generate_module
from saelab.lm.blocks import Decoder
from saelab.lm.generate import Sampling
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.selection import effects as effects_module
from saelab.selection.effects import feature_effects
from saelab.text.corpora import Document
from saelab.text.pack import pack_for

SITE = "resid_post.1"


def ends_at(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A pass of more rows than `most` finds no memory."""
    run = Decoder.run

    def bounded(self: Decoder, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(hidden) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return run(self, hidden, *args, **kwargs)

    monkeypatch.setattr(Decoder, "run", bounded)
    monkeypatch.setattr(hardware, "_FITS", {})


def works(folder: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """What is done in batches of more than three rows, each as one tensor."""
    lm = tiny_lm()
    packed = pack_for(lm, [Document(str(i), f"word {i} of many " * 9) for i in range(40)], context=16)
    prompts = [[5, 6, 7 + i] for i in range(8)]
    config = HarvestConfig(batch_contexts=8, shard_contexts=16, dtype="float32", sink_ratio=1000.0)

    def sample() -> dict[str, ActivationShards]:
        return harvest(lm, packed.first(8), [SITE], folder / "sample", config=config)

    generator = torch.Generator().manual_seed(3)
    decoder = torch.nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=1)
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": torch.zeros(40), "b_dec": torch.zeros(32)}
    sae = ReluSae(SaeConfig(architecture="relu", d_in=32, d_sae=40, site=SITE), weights)
    return {
        "reading": lambda: read_states(lm, packed.tokens, [SITE])[SITE],
        "harvest": lambda: harvest(lm, packed, [SITE], folder, config=config)[SITE].read(0).rows,
        "stream": lambda: streamed(LiveActivations(lm, packed, sample(), config=config)),
        "texts": lambda: torch.tensor(lm.generate_ids(prompts, Sampling(5, temperature=1.0, seed=3))),
        "effects": lambda: feature_effects(lm, sae, site=SITE, prefix="the cat", positions="all")["kl"].to_torch(),
    }


def streamed(live: LiveActivations) -> torch.Tensor:
    """The first rows of a stream."""
    return torch.cat(list(live.at(SITE).batches(50, steps=4)))


@pytest.mark.parametrize("name", ["reading", "harvest", "stream", "texts", "effects"])
def test_half_at_once_gives_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without halving the memory is not enough. What was enough is kept."""
    expected = works(tmp_path / "whole")[name]()
    ends_at(monkeypatch, 3)
    torch.testing.assert_close(works(tmp_path / "parts")[name](), expected, rtol=1e-4, atol=1e-5)
    assert list(hardware._FITS.values()) in ([2], [3]), "the first half that was enough"
    for module in (passes_module, site_module, generate_module, effects_module):
        monkeypatch.setattr(module, "fitting", lambda what, size, work: work(size))
    with pytest.raises(torch.OutOfMemoryError):
        works(tmp_path / "control")[name]()


def test_not_even_one_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = works(tmp_path)
    ends_at(monkeypatch, 0)
    for name in ("reading", "harvest", "stream", "texts"):
        with pytest.raises(ResourceError, match=r"not enough for .* one at a time"):
            made[name]()
    with pytest.raises(ResourceError, match="not enough for a pass"):
        tiny_lm()


def test_a_verb_that_finds_no_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 5 and a sentence. Control: another error of torch is not swallowed."""

    def full(text: str) -> Callable[..., int]:
        def doctor(**asked: Any) -> int:
            raise error(text)

        return doctor

    error: type[RuntimeError] = torch.OutOfMemoryError
    monkeypatch.setattr("saelab.cli.doctor.doctor", full("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"))
    assert main(["doctor"]) == 5
    assert "not enough: CUDA out of memory." in capsys.readouterr().err
    error = RuntimeError
    with pytest.raises(RuntimeError, match="CUDA"):
        main(["doctor"])
