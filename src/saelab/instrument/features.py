"""The features of a dictionary as the instrument steers and reads them, from one encode pass over ordinary text.

A dictionary is whatever encodes the stream and has a direction per feature: an SAE, or the random dictionary that
stands beside it. Contexts and terms are interp's own. A feature can be drawn where it is active on 0.05 % to 10 % of
tokens and exceeds 0.3 of its peak in at least 8 windows of 32 tokens. Must never know steered texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.shards import ActivationShards
from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.instrument.embedding import Embedder
from saelab.instrument.readers import Background, Features, unit
from saelab.interp.features.codes import Codes, Encode, encode_codes
from saelab.interp.features.contexts import contexts_table
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe
from saelab.interp.features.windows import DESCRIBE, Passages, WindowConfig, WindowFinder
from saelab.lm.model import LanguageModel
from saelab.text.pack import PackedText

WINDOW = 32
PEAK_SHARE = 0.3
LEAST_WINDOWS = 8
DENSITY = (5e-4, 0.1)
CONTEXTS, TERMS = 8, 12


@dataclass(frozen=True, eq=False)
class SiteText:
    """Ordinary text with the stream at a site.

    rows [N, D]: activations. places [N]: their positions in the flattened text, ascending. finder: where windows of the
    text may stand. strings: how each id of the vocabulary reads.
    """

    site: str
    packed: PackedText
    rows: Float[Tensor, "N D"]
    places: Int[np.ndarray, " N"]
    finder: WindowFinder
    strings: Sequence[str]

    @classmethod
    def of(cls, lm: LanguageModel, packed: PackedText, shards: ActivationShards) -> "SiteText":
        """The whole of what was harvested at a site."""
        parts = [shards.read(k) for k in range(len(shards.manifest.shards))]
        rows = torch.cat([part.rows for part in parts]).float()
        places = torch.cat([part.context.long() * packed.context + part.position for part in parts]).numpy()
        passages = Passages(packed.tokens.numpy(), packed.document_ids.numpy())
        strings = lm.token_strings(range(lm.vocab_size))
        return cls(shards.site, packed, rows, places, WindowFinder.over(passages, WindowConfig()), strings)

    @cached_property
    def window(self) -> Int[np.ndarray, " N"]:
        """The window of 32 tokens that each row stands in, numbered without gaps."""
        context, position = np.divmod(self.places, self.packed.context)
        per_context = -(-self.packed.context // WINDOW)
        return np.unique(context * per_context + position // WINDOW, return_inverse=True)[1]

    @cached_property
    def window_means(self) -> Float[np.ndarray, "W D"]:
        """The mean stream of every window."""
        return window_means(self.rows, self.window)

    @cached_property
    def background(self) -> Background:
        """What window means look like here."""
        return Background.of(self.window_means)


def window_means(rows: Float[Tensor, "N D"], window: Int[np.ndarray, " N"]) -> Float[np.ndarray, "W D"]:
    """Means of the rows of each window (numbered without gaps)."""
    index = torch.from_numpy(window)
    sums = torch.zeros(int(window.max()) + 1, rows.shape[1]).index_add_(0, index, rows)
    return (sums / torch.bincount(index)[:, None]).numpy()


def features_of(
    encode: Encode,
    directions: Float[Tensor, "F D"],
    text: SiteText,
    embed: Embedder,
    *,
    count: int,
    seed: int,
    least: int = 2,
) -> Features:
    """Up to `count` features of a dictionary, drawn at random among those that can be read.

    Raises `UserError` where fewer than `least` can.
    """
    codes = encode_codes(encode, text.rows, text.places)
    windows = _Windows(codes, text)
    order = numpy_generator(seed, "instrument", "features").permutation(codes.n_features)
    drawn: list[int] = []
    for feature in order.tolist():
        if len(drawn) < count and windows.usable(feature):
            drawn.append(feature)
    if len(drawn) < least:
        raise UserError(
            f"{len(drawn)} of {codes.n_features} features are active often enough, and rarely enough, to be read; "
            f"{least} are needed.",
            hint="Read more text, or take another dictionary.",
        )
    drawn.sort()
    means = np.stack([text.window_means[windows.strong(feature)].mean(0) for feature in drawn])
    contexts, terms = _about(codes, text, drawn, embed)
    return Features(
        names=tuple(map(str, drawn)),
        directions=unit(directions[drawn].float().numpy()),
        weights=text.background.weights(means),
        contexts=contexts,
        terms=terms,
    )


class _Windows:
    """Which windows each feature is strong in."""

    def __init__(self, codes: Codes, text: SiteText):
        self.codes = codes
        self.of_place = np.full(text.packed.tokens.numel(), -1)
        self.of_place[text.places] = text.window

    def strong(self, feature: int) -> Int[np.ndarray, " W"]:
        places, values = self.codes.of(feature)
        return np.unique(self.of_place[places[values > PEAK_SHARE * values.max()]])

    def usable(self, feature: int) -> bool:
        active = len(self.codes.of(feature)[0])
        low, high = DENSITY
        inside = low < active / self.codes.n_rows < high
        return inside and len(self.strong(feature)) >= LEAST_WINDOWS


def _about(
    codes: Codes, text: SiteText, features: Sequence[int], embed: Embedder
) -> tuple[Float[np.ndarray, "K E"], Float[np.ndarray, "K E"]]:
    """Unit vectors of each feature's top contexts (their mean) and of its description's terms (NaN: none)."""
    table = contexts_table(codes, text.finder, text.strings, features, count=CONTEXTS)
    shown = embed(["".join(tokens) for tokens in table["tokens"]])
    owner = table["feature"].to_numpy()
    contexts = np.stack([shown[owner == f].mean(0) if (owner == f).any() else 0 * shown[0] for f in features])
    finder = text.finder
    read = np.zeros(finder.passages.tokens.size, bool)
    read[text.places] = True
    describing = DescribingText.over(finder.passages, read & (finder.sides == DESCRIBE), text.strings)
    largest = np.array([finder.threshold(codes, f) for f in range(codes.n_features)]) / finder.config.active_fraction
    found = describe(codes, describing, largest, DescribeConfig())
    phrases = [", ".join(t.text.strip() for t in found[f].terms[:TERMS]) if f in found else "" for f in features]
    terms = embed(phrases)
    terms[~terms.any(1)] = np.nan
    return unit(contexts), terms
