"""Intervention: does the description of a feature foretell what the model writes when the feature is turned up?

Short prompts are continued with and without the feature added at the site,

    x + strength * largest activation * W_dec[f] / ||W_dec[f]||        (at every position)

and the judge, given the description, scores each continuation as detection does. AUROC of steered against unsteered
continuations: 0.5 where the description says nothing of the feature's effect. A feature that is described by what makes
it fire need not score here. Source: EleutherAI 2410.13928, section 4.4 (there: a likelihood under the judge).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import Field

from saelab.core.config import Config
from saelab.core.records import Description
from saelab.interp.features.detection import Detection, Trial, detect
from saelab.judges.client import Judge
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae


class InterventionConfig(Config):
    """How many features are turned up, how far, and how much is written."""

    n_latents: int = Field(default=100, ge=1, description="Features, in the order in which they were drawn.")
    strength: float = Field(default=2.0, gt=0, description="In units of the feature's largest activation.")
    max_new_tokens: int = Field(default=32, ge=1, description="Tokens of a continuation.")
    prompts: tuple[str, ...] = Field(
        default=("The", "I think that", "In the morning", "It is said that", "Here is a list:", "She wrote:"),
        min_length=1,
        description="What is continued.",
    )


def turned_up(
    lm: LanguageModel,
    site: str,
    sae: Sae,
    descriptions: Mapping[int, Description],
    largest: Mapping[int, float],
    *,
    judge: Judge,
    config: InterventionConfig,
) -> list[Detection]:
    """The scores of described features, in their order. largest: their largest activations on the text."""
    features = [f for f in descriptions if largest.get(f, 0.0) > 0][: config.n_latents]
    if not features:
        return []
    prompts, n = list(config.prompts), len(config.prompts)
    plain = _written(lm, prompts, config, [])
    rows = torch.tensor([f for f in features for _ in prompts])
    directions = torch.nn.functional.normalize(sae.W_dec[rows], dim=1)
    strengths = torch.tensor([config.strength * largest[f] for f in features for _ in prompts])
    steered = _written(lm, prompts * len(features), config, [Add(site, directions, strengths)])
    trials = []
    for i, feature in enumerate(features):
        windows = (*steered[i * n : (i + 1) * n], *plain)
        use = [k for k, w in enumerate(windows) if w]  # an answer that ends at once says nothing
        active = np.array([k < n for k in use], bool)
        if active.any() and not active.all():
            trials.append(Trial(feature, descriptions[feature], (), np.zeros(0, bool), _of(windows, use), active))
    return detect(trials, judge, calibrated=False)


def _of(windows: Sequence[tuple[str, ...]], use: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    return tuple(windows[k] for k in use)


def _written(
    lm: LanguageModel, prompts: Sequence[str], config: InterventionConfig, edits: list[Add]
) -> list[tuple[str, ...]]:
    """Continuations as tokens; greedy, so that only the edit can differ."""
    ids = lm.generate_ids(list(prompts), Sampling(config.max_new_tokens), edits=edits)
    return [tuple(lm.token_texts(row)) for row in ids]
