"""A tiny language model in which steering is known to work: six groups of letters, each along a direction of its own.

The group's direction is added to the embeddings and to the head's rows of its letters, so that a text of the group lies
along it at the site, and moving along it writes the group's letters.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch

from saelab.core.seeds import numpy_generator, seed_of
from saelab.instrument.bench import Bench
from saelab.instrument.classes import LabelledTexts, class_features, halved
from saelab.instrument.config import GateConfig
from saelab.instrument.dose import Probe
from saelab.instrument.features import SiteText
from saelab.instrument.gate import Gate, Sets, gate
from saelab.instrument.prompts import prompts_of
from saelab.instrument.random_dictionary import untrained_features
from saelab.instrument.readers import Features
from saelab.instrument.texts import Desk
from saelab.interp.features.windows import Passages, WindowConfig, WindowFinder
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.text.corpora import Document
from saelab.text.pack import pack_for

# None of these characters is part of a merge of the tiny tokenizer, so each is a token.
GROUPS = ("ABCDEFGH", "IJKLMNOP", "QRSTUVWX", "YZ012345", "6789!?#$", "%&()*+,-")
EMBEDDED, WRITTEN = 1.0, 2.5  # how far a group's direction is added to embeddings and to the head
SITE = "resid_post.1"
SMALL = GateConfig(
    doses=(0.4, 1.2),
    prompts=1,
    dev_copies=3,
    test_copies=8,
    feature_copies=1,
    unsteered_copies=44,
    n_features=16,
    width=128,
    l0=8,
    new_tokens=12,
    temperature=1.0,
    contexts=40,
    context=64,
    probe_contexts=2,
)


class Letters:
    """An embedder that counts the letters of the groups."""

    name = "letters"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        letters = "".join(GROUPS)
        counts = np.array([[text.count(letter) for letter in letters] for text in texts], np.float32)
        norms = np.linalg.norm(counts, axis=1, keepdims=True)
        return counts / np.where(norms > 0, norms, 1)


def planted_lm(seed: int = 0) -> LanguageModel:
    """The model; its other weights are drawn from the seed."""
    lm = tiny_lm(d_model=64, seed=seed)
    generator = torch.Generator().manual_seed(seed_of(seed, "planted"))
    directions = torch.linalg.qr(torch.randn(64, len(GROUPS), generator=generator)).Q.T
    for block in lm.model.model.layers:
        for part in (block.self_attn.o_proj, block.mlp.down_proj):
            part.weight.data *= 0.3
    for group, direction in zip(GROUPS, directions, strict=True):
        ids = lm.tokenize([group], bos=False)[0]
        lm.model.model.embed_tokens.weight.data[ids] += EMBEDDED * direction
        lm.model.lm_head.weight.data[ids] += WRITTEN * direction
    return lm


def text_of(group: str | None, rng: np.random.Generator, length: int = 60) -> str:
    """Letters, three of four of them the group's."""
    others = np.array(list("abcdefghijklmnopqrstuvwxyz" + "".join(GROUPS)))
    own = others if group is None else np.array(list(group))
    return "".join(np.where(rng.random(length) < 0.75, rng.choice(own, length), rng.choice(others, length)))


def planted_classes(seed: int) -> list[LabelledTexts]:
    rng = numpy_generator("planted classes", seed)
    return halved({group: [text_of(group, rng) for _ in range(24)] for group in GROUPS})


class World:
    """A planted model with its classes, random dictionary, desk and probe; `gate` runs on parts of it."""

    def __init__(self, seed: int, config: GateConfig = SMALL):
        self.seed, self.embed = seed, Letters()
        self.config = config.model_copy(update={"seed": seed})
        self.lm = planted_lm(seed)
        rng = numpy_generator("planted text", seed)
        documents = [Document(str(i), text_of([*GROUPS, None][i % 7], rng)) for i in range(80)]
        packed = pack_for(self.lm, documents, context=config.context, n_contexts=config.contexts)
        tokens = packed.tokens.long()
        rows = self.lm.run_to(tokens, [SITE])[SITE][packed.counts]
        finder = WindowFinder.over(Passages(packed.tokens.numpy(), packed.document_ids.numpy()), WindowConfig())
        strings = self.lm.token_strings(range(self.lm.vocab_size))
        places = packed.counts.reshape(-1).nonzero()[:, 0].numpy()
        self.text = SiteText(SITE, packed, rows.float(), places, finder, strings)
        self.classes = class_features(self.lm, SITE, planted_classes(seed), self.text.background, self.embed)
        size = {"width": config.width, "l0": config.l0, "count": config.n_features, "seed": seed}
        self.random = untrained_features(self.text, self.embed, **size)
        self.probe = Probe.over(self.lm, SITE, tokens[: config.probe_contexts, :48])
        self.desk = Desk(
            lm=self.lm,
            site=SITE,
            prompts=prompts_of(self.lm, each=config.prompts, seed=seed),
            embed=self.embed,
            norm=self.probe.norm,
            new_tokens=config.new_tokens,
            temperature=config.temperature,
            seed=seed,
        )

        self.written: dict[tuple[str, bytes], pl.DataFrame] = {}

    def gate(self, classes: Features | None = None, sae: Features | None = None) -> Gate:
        """The gate on these sets; what the same directions wrote before is not written again."""
        sets = Sets(self.classes if classes is None else classes, self.random, sae)

        def keep(name: str, write: Callable[[], pl.DataFrame]) -> pl.DataFrame:
            key = (name, sets.classes.directions.tobytes() if name.startswith("classes") else b"")
            if key not in self.written:
                self.written[key] = write()
            return self.written[key]

        return gate(Bench(self.config, self.desk, self.probe, keep), sets)

    def with_random_directions(self) -> Features:
        drawn = numpy_generator("random directions", self.seed).normal(size=self.classes.directions.shape)
        return replace(self.classes, directions=drawn / np.linalg.norm(drawn, axis=1, keepdims=True))

    def with_shuffled_readers(self) -> Features:
        order = numpy_generator("shuffled readers", self.seed).permutation(len(self.classes))
        return replace(
            self.classes, discriminants=self.classes.discriminants[order], contexts=self.classes.contexts[order]
        )
