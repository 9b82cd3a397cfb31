"""Which features fire on a text that somebody typed: for each token the strongest, and each feature along the text.

Takes a model, an SAE and a string, returns plain data. Must never know a page or a server.
"""

from typing import Any

import torch

from saelab.core.bytetext import plain_text, whole_characters
from saelab.core.errors import UserError
from saelab.interp.features.profile import fitting_site
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae

LONGEST = 512  # tokens of a text
CHARACTERS = 64  # of a token, about, of a text that is not worth being made tokens of
EACH, SHOWN = 8, 24  # features kept of a token, and shown of the text


@torch.inference_mode()
def try_text(lm: LanguageModel, sae: Sae, text: str, *, about: int | None = None) -> dict[str, Any]:
    """Tokens (parts of one character together), the strongest features of each, and the features of the whole text.

    about: a feature that comes first, whether it fires or not. Values are codes in activation units. Features are
    ordered by their largest value. Raises `UserError` where the text
    is empty or longer than `LONGEST` tokens.
    """
    if len(text) > CHARACTERS * LONGEST:
        raise UserError(f"The text has {len(text):,} characters; up to {LONGEST} tokens are read.", hint="Give a part.")
    ids = lm.tokenize([text])[0]
    kept = [i for i in ids if i not in lm.special_ids]
    if not kept:
        raise UserError("There is no text to read.", hint="Write a sentence.")
    if len(kept) > LONGEST:
        raise UserError(f"The text has {len(kept):,} tokens; up to {LONGEST} are read.", hint="Give a part of it.")
    site = fitting_site(lm, sae, ())
    codes = sae.encode(lm.capture([ids], [site])[site].cpu()).float()
    if not bool(codes.isfinite().all()):
        raise UserError("The SAE's values on this text are no numbers.")
    strings = lm.token_texts(kept)
    groups = whole_characters(strings)
    codes = torch.stack([codes[list(g)].amax(0) for g in groups])
    best = codes.topk(min(EACH, codes.shape[1]), dim=1)
    largest, where = codes.max(dim=0)
    order = largest.argsort(descending=True, stable=True)[:SHOWN]
    first = [] if about is None else [about]
    shown = first + [int(f) for f in order if largest[f] > 0 and int(f) != about]
    return {
        "tokens": [plain_text([strings[i] for i in g]) for g in groups],
        "active": (codes > 0).sum(1).tolist(),
        "top": [
            [[f, v] for f, v in zip(features, values, strict=True) if v > 0]
            for features, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        "features": [
            {
                "feature": f,
                "largest": float(largest[f]),
                "at": int(where[f]),
                "values": [round(v, 4) for v in codes[:, f].tolist()],
            }
            for f in shown
        ],
        "site": site,
    }
