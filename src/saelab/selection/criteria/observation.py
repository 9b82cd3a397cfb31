"""What a criterion sees: the next-token distribution without the edit, the distributions with it, and the lens.

One row per feature. A criterion is a pure function of an `Observation`; it never sees a language model, an SAE, a
file or a label. What several criteria share (normaliser, probabilities, entropy) is computed once, on first use.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

linalg: Any = torch.linalg  # untyped in torch


class NextToken:
    """Next-token distributions `p = softmax(logits)`, one per row.

    Logits are float32 and shifted so that each row's largest is 0: the same distributions, with sums that round less.
    """

    def __init__(self, logits: Float[Tensor, "B V"]):
        logits = logits.float()
        self.logits = logits - logits.amax(-1, keepdim=True)

    @cached_property
    def exps(self) -> Float[Tensor, "B V"]:
        """exp(logits): p times its normaliser, so that no pass over the vocabulary is spent on dividing."""
        return torch.exp(self.logits)

    @cached_property
    def norm(self) -> Float[Tensor, "B"]:
        """Z, the sum of the exponentials."""
        return self.exps.sum(-1)

    @cached_property
    def log_norm(self) -> Float[Tensor, "B"]:
        """log Z; log p = logits - log Z."""
        return self.norm.log()

    @cached_property
    def probs(self) -> Float[Tensor, "B V"]:
        """p."""
        return self.exps / self.norm[:, None]

    @cached_property
    def entropy(self) -> Float[Tensor, "B"]:
        """H(p) in nats: log Z - E_p[logit]."""
        return self.log_norm - linalg.vecdot(self.exps, self.logits) / self.norm

    def log_probs_of(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """log p of the given tokens; one row of ids per row of logits (a single row of logits serves all)."""
        logits = self.logits.expand(len(ids), -1)
        return logits.gather(1, ids) - self.log_norm.expand(len(ids))[:, None]

    @cached_property
    def rank(self) -> Int[Tensor, "B V"]:
        """0-based rank of every token (0 = most likely). A full sort: meant for the one unedited row."""
        order = torch.argsort(self.logits, dim=-1, descending=True, stable=True)
        return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).to(order))


@dataclass(frozen=True)
class ConceptTokens:
    """Tokens of each feature's concept and tokens of like frequency that are not; rows padded with -1."""

    inside: Int[Tensor, "B C"]
    outside: Int[Tensor, "B R"]

    def rows(self, start: int, stop: int) -> "ConceptTokens":
        """The concepts of features start to stop."""
        return ConceptTokens(self.inside[start:stop], self.outside[start:stop])


@dataclass(frozen=True)
class Observation:
    """A batch of features under one prefix.

    `base` has one row (the unedited prefix), `steered` one row per feature, `lens_top` the tokens that each feature's
    direction promotes most through the final norm and head, best first. `k` is that of Delta Token Confidence.
    """

    base: NextToken
    steered: NextToken
    lens_top: Int[Tensor, "B L"]
    k: int = 1
    concept: ConceptTokens | None = None
