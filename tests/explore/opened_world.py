"""A tiny language model and two SAEs by themselves on a hostile text, as the explorer opens them; and a server for it.

The text and an SAE's name hold what would run a script on any page that does not escape; so do the descriptions, which
are made of the text's terms.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from saelab.explore.opened import Explored, open_explored
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae

SITE, D, F = "resid_post.1", 32, 64
HOSTILE = '<img src=x onerror=window.ran=1> <script>window.ran=1</script> "><b>{{7*7}}'
NAMES = ("plain", "<svg onload=window.ran=1>")


@dataclass(frozen=True)
class World:
    """What a command is given: SAEs, the text that their features are read from, and a cache of their own."""

    refs: tuple[str, ...]
    text: str
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SAELAB_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}

    def opened(self) -> Explored:
        return open_explored(self.refs, text=self.text)


def make_world(folder: Path) -> World:
    """Write the model, the text and the SAEs into a folder."""
    lm = tiny_lm()
    lm.model.save_pretrained(folder / "lm")
    lm.tokenizer.save_pretrained(folder / "lm")
    lines = [f"the cat number {i} walks to the river and the house {i % 7} of {HOSTILE} dog " * 3 for i in range(60)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    refs = []
    for seed, name in enumerate(NAMES):
        place = folder / "saes" / name
        save_sae(some_sae(f"path:{folder / 'lm'}", seed), place)
        refs.append(str(place))
    return World(tuple(refs), f"path:{folder / 'text.jsonl'}", folder / "cache")


def some_sae(lm: str | None, seed: int = 0) -> TopKSae:
    """A random SAE of the tiny model, whose last feature is dead."""
    g = torch.Generator().manual_seed(seed)
    decoder = torch.randn(F, D, generator=g)
    bias = torch.zeros(F)
    bias[-1] = -1e6
    weights = {"W_enc": decoder.T / 4, "W_dec": decoder, "b_enc": bias, "b_dec": torch.zeros(D)}
    return TopKSae(SaeConfig(architecture="topk", d_in=D, d_sae=F, site=SITE, lm=lm, k=6), weights)


@dataclass
class Server:
    """A running explorer. address: the first one, with its token."""

    process: subprocess.Popen[str]
    address: str

    @property
    def base(self) -> str:
        return self.address.partition("/?")[0]

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    @property
    def token(self) -> str:
        return self.address.partition("token=")[2]

    def end(self) -> tuple[int, str]:
        """Ctrl-C; returns the exit code and what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@contextmanager
def serving(world: World, *more: str) -> Iterator[Server]:
    """A server for the length of a block."""
    command = [
        sys.executable,
        "-m",
        "saelab",
        "explore",
        *world.refs,
        "--text",
        world.text,
        "--no-browser",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, *more], env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Explorer: "):
            process.kill()
            raise AssertionError(f"no address: {line}{process.communicate()}")
        yield Server(process, line.removeprefix("Explorer: ").strip())
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):  # of one that ended by itself too
            assert pipe is not None
            pipe.close()
