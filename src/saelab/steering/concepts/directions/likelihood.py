"""The training loop of directions that are learnt through the language model: fixed weights, one trained vector.

A text's activations at the site are computed once per batch without gradient; the edit is applied to every position
after the template's common beginning; the loss is the mean NLL of the answer's tokens plus what the method adds. Adam
with a linear decay, as AxBench has it. Knows no method.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.activations.site import resumed, stream_site
from saelab.core.seeds import numpy_generator
from saelab.steering.concepts.examples import Examples, prefix_length, templated

# (hidden [B, T, D], editable positions [B, T], progress of training 0 to 1) -> (edited hidden, penalty)
Change = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Fit:
    """How long and how fast a vector is trained. `texts` of each kind at most; `max_tokens` of each text."""

    epochs: int = 3
    batch: int = 6
    lr: float = 1e-2
    clip: float | None = None
    texts: int = 72
    max_tokens: int = 160


@dataclass(frozen=True)
class Batch:
    """Texts as one rectangle, padded on the right."""

    tokens: Int[Tensor, "B T"]
    editable: Bool[Tensor, "B T"]
    answer: Bool[Tensor, "B T"]


def train(
    examples: Examples, vector: Float[Tensor, "D"], change: Change, fit: Fit, *, both: bool, seed: int, name: str
) -> Float[Tensor, "D"]:
    """The trained vector. `change` reads `vector` (it is trained in place); `both` trains on all texts, else on the
    concept's only.
    """
    vector.requires_grad_(True)
    optimiser = torch.optim.Adam([vector], lr=fit.lr)
    chosen = _chosen(examples, fit, both)
    steps = fit.epochs * -(-len(chosen) // fit.batch)
    for step, batch in enumerate(_batches(examples, chosen, fit, seed, name)):
        for group in optimiser.param_groups:
            group["lr"] = fit.lr * (1 - step / steps)
        with torch.no_grad():
            before = stream_site(examples.site)
            states = examples.lm.run_to(batch.tokens, [examples.site, *([before] if before else [])])
            hidden, stream = states[examples.site], states[before] if before else None
        edited, penalty = change(hidden, batch.editable, step / steps)
        loss = _answer_nll(examples, edited, batch, stream) + penalty
        optimiser.zero_grad()
        loss.backward()
        if fit.clip is not None:
            torch.nn.utils.clip_grad_norm_([vector], fit.clip)
        optimiser.step()
    return vector.detach()


def _answer_nll(
    examples: Examples, hidden: Float[Tensor, "B T D"], batch: Batch, stream: Float[Tensor, "b T E"] | None = None
) -> Float[Tensor, ""]:
    """Mean NLL of the answers' tokens, each predicted from the position before it."""
    logits = resumed(examples.lm, hidden, examples.site, stream)[:, :-1]
    scored = batch.answer[:, 1:]
    return torch.nn.functional.cross_entropy(logits[scored], batch.tokens[:, 1:][scored])


def _chosen(examples: Examples, fit: Fit, both: bool) -> list[int]:
    shown = examples.positive.nonzero().flatten().tolist()[: fit.texts]
    others = (~examples.positive).nonzero().flatten().tolist()[: fit.texts]
    return shown + others if both else shown


def _batches(examples: Examples, chosen: list[int], fit: Fit, seed: int, name: str) -> Iterator[Batch]:
    rng = numpy_generator(seed, "steering", name, examples.site, examples.concept)
    lm, skip = examples.lm, prefix_length(examples.lm)
    ids = {i: templated(lm, examples.pairs[i])[: fit.max_tokens] for i in chosen}
    asked = {i: len(lm.chat(examples.pairs[i].instruction)) for i in chosen}
    for _ in range(fit.epochs):
        order = [chosen[int(k)] for k in rng.permutation(len(chosen))]
        for start in range(0, len(order), fit.batch):
            part = order[start : start + fit.batch]
            width = max(len(ids[i]) for i in part)
            tokens = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in part], device=lm.device)
            place = torch.arange(width)
            length = torch.tensor([len(ids[i]) for i in part])[:, None]
            begin = torch.tensor([asked[i] for i in part])[:, None]
            real = place < length
            yield Batch(tokens, (real & (place >= skip)).to(lm.device), (real & (place >= begin)).to(lm.device))
