"""Texts that show a concept and texts that do not, read at one site: what directions are fitted to.

A text is an instruction and its answer, put through the chat template; positions of the template's own beginning (the
tokens that any two templated instructions share) and of attention sinks (norm above ten times the median) are left out.
Every row remembers its text, since a label belongs to a text and never to a token. Knows no method and no judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.activations.site import sink_bound
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel


@dataclass(frozen=True)
class Pair:
    """An instruction and an answer to it."""

    instruction: str
    answer: str


@dataclass(frozen=True, eq=False)
class TextRows:
    """Activations `[N, D]` (float32) of counted tokens and the number of the text each belongs to, ascending."""

    values: Float[Tensor, "N D"]
    text: Int[Tensor, "N"]
    n_texts: int

    def of(self, texts: Bool[Tensor, "X"]) -> "TextRows":
        """The rows of some of the texts, renumbered."""
        number = torch.cumsum(texts, 0) - 1
        keep = texts[self.text]
        return TextRows(self.values[keep], number[self.text[keep]], int(texts.sum()))

    def pooled(self, scores: Float[Tensor, "N ..."]) -> Float[Tensor, "X ..."]:
        """The largest score of each text; -inf where a text has no row."""
        shape = (self.n_texts, *scores.shape[1:])
        index = self.text.view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
        return scores.new_full(shape, -torch.inf).scatter_reduce(0, index, scores, "amax")


def joined(first: TextRows, second: TextRows) -> TextRows:
    """The rows of both, the texts of `second` numbered after those of `first`."""
    values, text = torch.cat([first.values, second.values]), torch.cat([first.text, second.text + first.n_texts])
    return TextRows(values, text, first.n_texts + second.n_texts)


@dataclass(frozen=True, eq=False)
class Examples:
    """One concept's training texts at a site: `rows` of all texts, and which of these show the concept."""

    lm: LanguageModel
    site: str
    concept: str
    pairs: tuple[Pair, ...]
    rows: TextRows
    positive: Bool[Tensor, "X"]

    def __post_init__(self) -> None:
        if not bool(self.positive.any()) or bool(self.positive.all()):
            raise UserError(f"Fitting a direction for {self.concept!r} needs texts that show it and texts that do not.")

    @property
    def shown(self) -> Float[Tensor, "N D"]:
        """Rows of the texts that show the concept."""
        return self.rows.values[self.positive[self.rows.text]]

    @property
    def others(self) -> Float[Tensor, "N D"]:
        """Rows of the texts that do not."""
        return self.rows.values[~self.positive[self.rows.text]]


def templated(lm: LanguageModel, pair: Pair) -> list[int]:
    """Token ids of the templated instruction followed by the answer, without what closes the turn."""
    return [*lm.chat(pair.instruction), *lm.tokenize([pair.answer], bos=False)[0]]


def prefix_length(lm: LanguageModel) -> int:
    """How many tokens every templated instruction begins with: those that two unlike ones share."""
    first, second = lm.chat("One."), lm.chat("Another?")
    return next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


@torch.inference_mode()
def read(
    lm: LanguageModel,
    site: str,
    pairs: Sequence[Pair],
    *,
    max_tokens: int = 256,
    batch_tokens: int = 4096,
    progress: Progress = SILENT,
) -> TextRows:
    """Activations of the pairs' counted tokens at a site; a text is cut after `max_tokens`."""
    ids = [templated(lm, pair)[:max_tokens] for pair in pairs]
    skip = prefix_length(lm)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: dict[int, Tensor] = {}
    with progress.task("reading examples", total=len(ids), unit="texts") as task:
        while order:
            width = len(ids[order[-1]])
            batch = [order.pop() for _ in range(min(len(order), max(1, batch_tokens // width)))]
            # Right padding: a causal model's real positions do not see it.
            tokens = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in batch], device=lm.device)
            hidden = lm.run_to(tokens, [site])[site]
            for row, i in enumerate(batch):
                found[i] = hidden[row, skip : len(ids[i])].float().cpu()
            task.advance(len(batch))
    values = torch.cat([found[i] for i in range(len(ids))])
    text = torch.cat([torch.full((len(found[i]),), i) for i in range(len(ids))])
    norm = values.norm(dim=-1)
    keep = norm <= sink_bound(norm)
    return TextRows(values[keep].clone(), text[keep], len(ids))
