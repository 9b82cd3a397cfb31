"""The negative control that can fail: features of a dictionary that nobody trained, read by readers of their own.

Random unit directions with a tied encoder that keeps the k largest projections (interp's control of fidelity), of an
SAE's width and L0. Each has contexts, terms and a discriminant like any feature. Text steered by one is *read back*
about as well as a trained feature's, since the model echoes what was written into it; what it is *about* is not there,
or hardly. Must never know steered texts.
"""

from saelab.core.seeds import seed_of
from saelab.instrument.features import SiteText, features_of
from saelab.instrument.readers import Features
from saelab.interp.fidelity.control import RandomDictionary
from saelab.judges.embedding import Embedder


def untrained_features(
    text: SiteText, embed: Embedder, *, width: int, l0: int, count: int, seed: int, least: int = 2
) -> Features:
    """`count` features of a random dictionary of `width` features, `l0` of them active on a token."""
    named = seed_of(seed, "instrument", "random dictionary")
    dictionary = RandomDictionary.fit(text.rows, width, min(l0, width), seed=named)
    return features_of(dictionary.encode, dictionary.directions, text, embed, count=count, seed=seed, least=least)
