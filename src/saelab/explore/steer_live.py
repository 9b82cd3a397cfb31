"""Steering while somebody watches: several features at once, several strengths beside the unsteered text, in one batch.

Each feature is moved by a share of the median norm of the prompt's activations at its site; features of one site are
added up, so that there is one edit per site. A row's scale multiplies all shares; scale 0 is the model as it is, to the
bit. With the first token each row's dose is measured: mean KL(unsteered, steered) of the next token after neutral
prefixes. Must never know a page or a server.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saelab.core.errors import UserError
from saelab.core.sites import parse_site
from saelab.explore.live import Stopped
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.report.words import finite
from saelab.saes.base import Sae
from saelab.selection.criteria.divergence import kl
from saelab.selection.criteria.observation import NextToken, Observation
from saelab.steering.direction import Direction
from saelab.steering.directions.sae_feature import sae_feature
from saelab.steering.units import PREFIXES, by_norm_share, raw

# Nats. docs/steering.md: of the doses tried at four sites, lifts of known classes fall at the largest of them.
BREAKS = 1.5
MOST_FEATURES, MOST_ROWS, MOST_TOKENS, MOST_SHARE = 8, 8, 256, 8.0
MOST_PROMPT = 1024  # tokens
LONGEST = 64  # characters of a token, about, of a text that is not worth being made tokens of
SPLIT = "\ufffd"  # what a decoder gives for a character of which a part is missing


@dataclass(frozen=True)
class Turn:
    """One feature and how far it is moved, as a share of the norm."""

    sae: str
    feature: int
    share: float


@dataclass(frozen=True)
class Asked:
    """What is to be written. scales: of the rows; row 0 is the unsteered one."""

    prompt: str
    turns: tuple[Turn, ...]
    scales: tuple[float, ...]
    sampling: Sampling
    chat: bool = False


def asked(data: Any) -> Asked:
    """What a page sent, checked. Raises `UserError`."""
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str) or not data["prompt"].strip():
        raise UserError("There is no prompt.", hint="Write how the text begins.")
    if len(data["prompt"]) > LONGEST * MOST_PROMPT:
        raise _too_long(f"{len(data['prompt']):,} characters", MOST_PROMPT)
    turns = tuple(_turn(one) for one in _list(data, "features", MOST_FEATURES))
    scales = tuple(_number(s, "A strength", 16) for s in _list(data, "scales", MOST_ROWS - 1))
    tokens = int(_number(data.get("tokens", 48), "The number of tokens", MOST_TOKENS))
    temperature = _number(data.get("temperature", 0), "The temperature", 10)
    if tokens < 1 or temperature < 0:
        raise UserError("A text has at least one token, and a temperature of 0 or more.")
    seed = Sampling(seed=int(_number(data.get("seed", 0), "The seed", 2**31))).seeds(1) * (1 + len(scales))
    return Asked(data["prompt"], turns, (0.0, *scales), Sampling(tokens, temperature, seed), bool(data.get("chat")))


def _turn(one: Any) -> Turn:
    feature = one.get("feature") if isinstance(one, dict) else None
    if not isinstance(one, dict) or not isinstance(one.get("sae"), str) or type(feature) is not int:
        raise UserError("A feature to steer with is an SAE, a number and a share of the norm.")
    return Turn(one["sae"], feature, _number(one.get("share"), "A share of the norm", MOST_SHARE))


def _list(data: Mapping[str, Any], name: str, most: int) -> list[Any]:
    found = data.get(name)
    if not isinstance(found, list) or not 0 < len(found) <= most:
        raise UserError(f"Between 1 and {most} {name} can be steered with at once.")
    return found


def _number(value: Any, what: str, most: float | int) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= most:
        raise UserError(f"{what} is a number between -{most:g} and {most:g}.")
    return float(value)


def directions(lm: LanguageModel, saes: Mapping[str, Sae], what: Asked) -> list[Direction]:
    """The direction of each feature, with the distance of its share as factor 1 (of a share of 0: of the whole norm).

    A negative share turns the vector round, as a distance is positive. Raises `UserError` where a feature, or the site,
    is not there.
    """
    found = [raw(sae_feature(saes[t.sae], t.feature, 1.0)) for t in what.turns]
    for d in found:
        if d.vector.shape[0] != lm.d_model:
            raise UserError(f"The SAE reads width {d.vector.shape[0]}; {lm.name} is {lm.d_model} wide.")
        lm.site(d.site)
    ids = [prompt_ids(lm, what)]
    sites = list(dict.fromkeys(d.site for d in found))
    acts = lm.capture(ids, sites)
    norms = {s: float(acts[str(parse_site(s))].norm(dim=-1).median()) for s in sites}
    turned = [
        replace(d, vector=d.vector if t.share >= 0 else -d.vector) for d, t in zip(found, what.turns, strict=True)
    ]
    return [by_norm_share(d, norms[d.site] * (abs(t.share) or 1.0)) for d, t in zip(turned, what.turns, strict=True)]


def prompt_ids(lm: LanguageModel, what: Asked) -> list[int]:
    """The prompt's tokens, in the model's chat template where that is asked for.

    Raises `UserError` where they are more than `MOST_PROMPT`, or than the model reads before the text it is to write.
    """
    ids = lm.chat(what.prompt) if what.chat else lm.tokenize([what.prompt])[0]
    context = getattr(lm.model.config, "max_position_embeddings", None) or math.inf
    most = min(MOST_PROMPT, context - what.sampling.max_new_tokens)
    if len(ids) > most:
        raise _too_long(f"{len(ids):,} tokens", max(0, int(most)))
    return ids


def _too_long(has: str, most: int) -> UserError:
    return UserError(f"The prompt has {has}; up to {most:,} tokens are read here.", hint="Give a part of it.")


def edits(found: Sequence[Direction], what: Asked) -> list[Add]:
    """One edit per site, with a strength for each row."""
    scales, together = torch.tensor(what.scales), dict[str, torch.Tensor]()
    for d, turn in zip(found, what.turns, strict=True):
        moved = d.vector * (d.distance if turn.share else 0.0)
        together[d.site] = together.get(d.site, torch.zeros_like(moved)) + moved
    return [Add(site, vector, scales) for site, vector in together.items()]


@torch.inference_mode()
def doses(lm: LanguageModel, changes: Sequence[Add], rows: int) -> list[float]:
    """Mean KL in nats of each row's next token after neutral prefixes from that of row 0."""
    total = torch.zeros(rows)
    for ids in lm.tokenize(list(PREFIXES)):
        tokens = torch.tensor([ids], device=lm.device).expand(rows, -1)
        logits = lm.logits(tokens, edits=changes)[:, -1]
        none = torch.zeros(rows, 1, dtype=torch.long, device=logits.device)
        total += kl(Observation(NextToken(logits[:1]), NextToken(logits), none)).cpu()
    return (total / len(PREFIXES)).tolist()


def warning(nats: float, limit: float | None) -> str | None:
    """What to say of a dose that is so large that text breaks. limit: the largest dose that the run has tried."""
    if not math.isfinite(nats):
        return "the steered model gives no numbers: the text is broken"
    most = BREAKS if limit is None else limit
    if nats <= most:
        return None
    known = "than this run's instrument has tried" if limit is not None else "than known classes steer well with"
    return f"{nats:.2g} nats is more {known} ({most:g}): the text may break."


def write(
    lm: LanguageModel, saes: Mapping[str, Sae], what: Asked, tell: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool], limits: Mapping[str, float],
) -> None:  # fmt: skip
    """Write all rows, telling each row's text whenever it grows, the doses once, and the end.

    limits: the largest dose tried at a site. Raises `Stopped` once `stop` says so.
    """
    found = directions(lm, saes, what)
    changes = edits(found, what)
    known = [limits[d.site] for d in found if d.site in limits]
    limit = min(known) if len(known) == len(found) else None
    shown, told = [""] * len(what.scales), False

    def tell_doses() -> None:
        measured = zip(what.scales, doses(lm, changes, len(what.scales)), strict=True)
        rows = [{"scale": s, "nats": finite(n), "warning": warning(n, limit)} for s, n in measured]
        tell({"type": "doses", "rows": rows})

    def watch(results: Sequence[Sequence[int]]) -> None:
        nonlocal told
        if stop():
            raise Stopped
        for row, ids in enumerate(results):
            text = lm.decode(ids).rstrip(SPLIT)
            if text != shown[row]:
                shown[row] = text
                tell({"type": "text", "row": row, "text": text})
        if not told:  # after the first token, which somebody waits for
            told = True
            tell_doses()

    prompts = [prompt_ids(lm, what)] * len(what.scales)
    ids = lm.generate_ids(prompts, what.sampling, edits=changes, watch=watch)
    tell({"type": "end", "texts": [lm.decode(row) for row in ids]})
