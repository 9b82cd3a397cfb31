"""What single features are: how often they fire and on what, their description, what they promote and suppress.

Of a text that is read here, for any SAE of a language model; an SAE of a run has the same in the tables of its
interpretation. Nothing is judged and nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.site import read_site
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.sites import in_stream, parse_site
from saelab.interp.features.codes import encode_codes
from saelab.interp.features.contexts import contexts_table
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe
from saelab.interp.features.windows import DESCRIBE, Passages, WindowConfig, WindowFinder
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.text.pack import PackedText

Context = Mapping[str, Any]  # tokens, activations, peak


@dataclass(frozen=True)
class FeatureProfile:
    """One feature. density: share of tokens on which it is active. max_activation: in activation units; 0: never
    active.

    description: None where no term stands out. contexts: largest activation first; each has `tokens`, the
    `activations` on them and the index `peak` of the largest. promotes, suppresses: tokens, strongest first.
    """

    feature: int
    density: float
    max_activation: float
    description: str | None
    contexts: tuple[Context, ...]
    promotes: tuple[str, ...]
    suppresses: tuple[str, ...]


def profiles(
    lm: LanguageModel,
    sae: Sae,
    features: Sequence[int],
    packed: PackedText,
    *,
    contexts: int = 5,
    tokens: int = 10,
    progress: Progress = SILENT,
) -> list[FeatureProfile]:
    """The features by what they do on a text, in the order given.

    packed: text as the model's tokens. contexts: how many of each feature. tokens: how many promoted and suppressed.
    Raises `UserError` for a feature, width or site that does not fit.
    """
    site = fitting_site(lm, sae, features)
    with progress.task(f"reading {site}", total=2, unit="passes") as task:
        clean = read_site(lm, packed, site)
        task.advance()
        places = clean.kept.reshape(-1).nonzero()[:, 0].numpy()
        codes = encode_codes(sae.encode, clean.rows, places).only(features)
        task.advance()
    passages = Passages(packed.tokens.numpy(), packed.document_ids.numpy())
    finder, strings = WindowFinder.over(passages, WindowConfig()), lm.token_texts(range(lm.vocab_size))
    numbers = range(len(features))
    read = np.zeros(passages.tokens.size, bool)
    read[places] = True
    largest = np.array([finder.threshold(codes, k) for k in numbers]) / finder.config.active_fraction
    text = DescribingText.over(passages, read & (finder.sides == DESCRIBE), strings)
    described = describe(codes, text, largest, DescribeConfig())
    first = {k: found.terms[0] for k, found in described.items()}
    shown = contexts_table(codes, finder, strings, numbers, count=contexts, terms=first)
    found: dict[int, list[Context]] = {k: [] for k in numbers}
    for row in shown.iter_rows(named=True):
        found[row["feature"]].append({name: row[name] for name in ("tokens", "activations", "peak")})
    lens = lens_tokens(lm, sae, features, tokens)
    return [
        FeatureProfile(
            feature,
            density=len(codes.of(k)[0]) / codes.n_rows,
            max_activation=float(codes.of(k)[1].max(initial=0)),
            description=described[k].text if k in described else None,
            contexts=tuple(found[k]),
            promotes=lens[k][0],
            suppresses=lens[k][1],
        )
        for k, feature in enumerate(features)
    ]


def fitting_site(lm: LanguageModel, sae: Sae, features: Sequence[int]) -> str:
    """The SAE's site, where it, its width and these features fit the model; else a `UserError`."""
    if sae.cfg.site is None:
        raise UserError("This SAE does not say at which site it was trained.")
    site, width = str(lm.site(sae.cfg.site)), sae.W_dec.shape[1]
    if width != lm.width(site):
        raise UserError(f"The SAE reads width {width}; {lm.name} is {lm.width(site)} wide at {site}.")
    known_features(sae, features)
    return site


def known_features(sae: Sae, features: Sequence[int]) -> None:
    """Refuse numbers of features that the SAE does not have."""
    if strange := [f for f in features if not 0 <= f < len(sae.W_dec)]:
        raise UserError(f"There is no feature {strange[0]}: the SAE has 0 to {len(sae.W_dec) - 1}.")


Scored = tuple[tuple[str, float], ...]  # tokens with their logits, strongest first
LOGITS = 1 << 24  # entries of a dense block


def lens_tokens(
    lm: LanguageModel, sae: Sae, features: Sequence[int], count: int
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tokens that each feature's direction promotes and suppresses most through the logit lens, strongest first.

    None of a site whose directions are none of the stream (mlp_in).
    """
    found = lens_scores(lm, sae.W_dec, features, count, sae.cfg.site)
    return [(tuple(t for t, _ in up), tuple(t for t, _ in down)) for up, down in found]


@torch.inference_mode()
def lens_scores(
    lm: LanguageModel, decoder: Float[Tensor, "F D"], features: Sequence[int], count: int, site: str | None = None
) -> list[tuple[Scored, Scored]]:
    """What each feature promotes and suppresses most, with the logit that a decoder row by itself gives each token.

    site: where the rows act; at mlp_in they are none of the stream, and there is nothing to read.
    """
    if site is not None and not in_stream(parse_site(site)):
        return [((), ())] * len(features)
    rows = decoder[torch.tensor(list(features))].to(lm.dtype)
    strings: dict[int, str] = {}  # a token is promoted by many features, and reading it takes longer than finding it
    found: list[tuple[Scored, Scored]] = []
    for block in rows.split(max(1, LOGITS // lm.vocab_size)):
        logits = lm.lens(block, site).float()
        ends = [logits.topk(count, largest=largest) for largest in (True, False)]
        new = sorted({t for end in ends for row in end.indices.tolist() for t in row} - set(strings))
        strings |= zip(new, lm.token_strings(new), strict=True)
        up, down = (
            [
                tuple((strings[t], by) for t, by in zip(*row, strict=True))
                for row in zip(end.indices.tolist(), end.values.tolist(), strict=True)
            ]
            for end in ends
        )
        found += zip(up, down, strict=True)
    return found
