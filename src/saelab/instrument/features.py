"""The features of a dictionary as the instrument steers and reads them, from one encode pass over ordinary text.

A dictionary is whatever encodes the stream and has a direction per feature: an SAE, or the random dictionary that
stands beside it. Contexts and terms are interp's own. A feature can be drawn where it is active on 0.05 % to 10 % of
tokens and exceeds 0.3 of its peak in at least 8 windows of 32 tokens. Must never know steered texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.shards import ActivationShards
from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.instrument.readers import Background, Features, in_words, unit
from saelab.interp.features.codes import Codes, Encode, encode_codes
from saelab.interp.features.contexts import contexts_table
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe
from saelab.interp.features.windows import DESCRIBE, Passages, WindowConfig, WindowFinder
from saelab.judges.embedding import Embedder
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
    def of(
        cls, lm: LanguageModel, packed: PackedText, shards: ActivationShards, contexts: int | None = None
    ) -> "SiteText":
        """What was harvested at a site: the whole, or its first `contexts`."""
        records = shards.manifest.shards
        n = min(contexts or packed.n_contexts, packed.n_contexts, records[-1].stop)
        parts = [shards.read(k) for k, record in enumerate(records) if record.first < n]
        context = torch.cat([part.context for part in parts]).long()
        kept = context < n
        rows = torch.cat([part.rows for part in parts])[kept].float()
        places = (context * packed.context + torch.cat([part.position for part in parts]))[kept].numpy()
        packed = replace(packed, tokens=packed.tokens[:n], document_ids=packed.document_ids[:n])
        passages = Passages(packed.tokens.numpy(), packed.document_ids.numpy())
        strings = lm.token_texts(range(lm.vocab_size))
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


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A dictionary encoded on the text of a site: which of its features can be read, and any of them as `Features`.

    directions [F, D]: which way each feature points, at any length.
    """

    codes: Codes
    directions: Float[Tensor, "F D"]
    text: SiteText

    @classmethod
    def of(
        cls, encode: Encode, directions: Float[Tensor, "F D"], text: SiteText, rows: Float[Tensor, "N E"] | None = None
    ) -> "Dictionary":
        """One pass over the text. rows: what is encoded, where that is the same tokens at another site."""
        return cls(encode_codes(encode, text.rows if rows is None else rows, text.places), directions, text)

    @cached_property
    def _window_of(self) -> Int[np.ndarray, " P"]:
        """The window of every place of the text, -1 where no row stands."""
        found = np.full(self.text.packed.tokens.numel(), -1)
        found[self.text.places] = self.text.window
        return found

    def readable(self, feature: int) -> bool:
        """Whether a feature is active often enough, and rarely enough, in enough windows."""
        active = len(self.codes.of(feature)[0])
        low, high = DENSITY
        return low < active / self.codes.n_rows < high and len(self._strong(feature)) >= LEAST_WINDOWS

    def drawn(self, count: int, seed: int) -> list[int]:
        """Up to `count` readable features drawn at random, ascending."""
        order = numpy_generator(seed, "instrument", "features").permutation(self.codes.n_features)
        return sorted(islice((f for f in order.tolist() if self.readable(f)), count))

    def features(self, chosen: Sequence[int], embed: Embedder, prefix: str = "") -> Features:
        """These features with their readers, in the order given; `prefix` stands before their names."""
        d = self.directions.shape[1]
        means = np.array([self.text.window_means[self._strong(f)].mean(0) for f in chosen]).reshape(len(chosen), d)
        contexts, terms, about = _about(self.codes.only(chosen), self.text, embed)
        return Features(
            names=tuple(f"{prefix}{f}" for f in chosen),
            directions=unit(self.directions[list(chosen)].float().numpy()),
            discriminants=self.text.background.discriminants(means),
            contexts=contexts,
            terms=terms,
            about=about,
            peaks=np.array([self.codes.of(f)[1].max() for f in chosen]).reshape(len(chosen)),
        )

    def _strong(self, feature: int) -> Int[np.ndarray, " W"]:
        places, values = self.codes.of(feature)
        return np.unique(self._window_of[places[values > PEAK_SHARE * values.max(initial=0)]])


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
    dictionary = Dictionary.of(encode, directions, text)
    drawn = dictionary.drawn(count, seed)
    if len(drawn) < least:
        raise UserError(
            f"{len(drawn)} of {dictionary.codes.n_features} features are active often enough, and rarely enough, to be "
            f"read; {least} are needed.",
            hint="Read more text, or take another dictionary.",
        )
    return dictionary.features(drawn, embed)


def _about(
    codes: Codes, text: SiteText, embed: Embedder
) -> tuple[Float[np.ndarray, "K E"], Float[np.ndarray, "K E"], tuple[str, ...]]:
    """Unit vectors of each feature's top contexts (their mean) and of its description's terms (NaN: none), and both in
    words.
    """
    features = range(codes.n_features)
    if not features:
        return np.zeros((0, 1)), np.zeros((0, 1)), ()
    table = contexts_table(codes, text.finder, text.strings, features, count=CONTEXTS)
    passages = np.array(["".join(tokens) for tokens in table["tokens"]], object)
    shown = embed(passages.tolist())
    owner = table["feature"].to_numpy()
    contexts = np.stack([shown[owner == f].mean(0) if (owner == f).any() else 0 * shown[0] for f in features])
    finder = text.finder
    read = np.zeros(finder.passages.tokens.size, bool)
    read[text.places] = True
    describing = DescribingText.over(finder.passages, read & (finder.sides == DESCRIBE), text.strings)
    largest = np.array([finder.threshold(codes, f) for f in features]) / finder.config.active_fraction
    found = describe(codes, describing, largest, DescribeConfig())
    phrases = [", ".join(t.text.strip() for t in found[f].terms[:TERMS]) if f in found else "" for f in features]
    terms = embed(phrases)
    terms[~terms.any(1)] = np.nan
    about = tuple(in_words(phrase, passages[owner == f].tolist()) for f, phrase in zip(features, phrases, strict=True))
    return unit(contexts), terms, about
