"""A tiny language model whose SAEs are trained as it runs: its stream, and what is trained at two sites."""

import tempfile
from collections.abc import Callable

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.activations.live import LiveActivations
from saelab.lm.tiny import tiny_lm
from saelab.saes.catalogue import training_config
from saelab.text.corpora import Document
from saelab.text.pack import pack_for
from saelab.training.run import Share

SITES = ("resid_post.0", "resid_post.1")
CONFIG = HarvestConfig(batch_contexts=4, shard_contexts=16, sink_ratio=2.0)


def opener() -> Callable[[], LiveActivations]:
    """Opens the stream anew, as a process that starts does; the model and the sample are made once."""
    lm = tiny_lm(n_layers=2, d_model=16)
    told = [Document(str(i), f"The {i}th text tells of {i * i} things, and of {i + 7} more. " * 4) for i in range(80)]
    packed = pack_for(lm, told, context=32, n_contexts=60, separator_id=257)
    with tempfile.TemporaryDirectory() as folder:
        sample = harvest(lm, packed.first(20), SITES, folder, config=CONFIG)
        assert all(shards.moments.count for shards in sample.values())  # read while they are there
    return lambda: LiveActivations(lm, packed, sample, config=CONFIG, buffer_rows=300)


def shares_of(live: LiveActivations, sites: tuple[str, ...] = SITES, seed: int = 3) -> list[Share]:
    """SAEs of the sites, each with a seed of its own."""
    found = []
    for i, site in enumerate(SITES):
        kinds = {f"{a}_{i}": training_config(a, level=3, d_in=16, d_sae=48) for a in ("topk", "jumprelu")}
        found += [Share(kinds, live.at(site), seed=seed + i, site=site)] if site in sites else []
    return found


def streamed() -> Callable[[], list[Share]]:
    """What a run of its own process trains."""
    opened = opener()
    return lambda: shares_of(opened())
