"""What the story of a path is made of: SAEs of consecutive sites, read on one text, matched in every way that is drawn.

The ways are the paper's (arXiv 2410.07656: folded, all tensors), the two that it has to be read against (decoder
directions alone; all tensors unfolded) and chance. Must never know a run folder, nor how anything is drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description
from saelab.judges.client import Judge
from saelab.lm.model import LanguageModel
from saelab.matching import baselines
from saelab.matching.cost import Parts
from saelab.matching.described import compared, same_level
from saelab.matching.evaluate import PathPass, coactive, read_path
from saelab.matching.fold import Fold, FoldedFeatures, features_of, has_thresholds
from saelab.matching.match import Matching, match
from saelab.saes.base import Sae
from saelab.stats.estimate import Estimate
from saelab.stats.ratio import Sums, ratio_estimate
from saelab.text.pack import PackedText

FOLDED, DIRECTIONS, UNFOLDED, CHANCE = "folded", "directions", "unfolded", "chance"
HOW: dict[str, tuple[Fold, Parts]] = {
    FOLDED: ("theta", "all"), DIRECTIONS: ("none", "decoder"), UNFOLDED: ("none", "all"),
}  # fmt: skip
Pairs = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Member:
    """An SAE of the story. described, again: its features by number, from two halves of the text."""

    name: str
    site: str
    level: int
    sae: Sae
    described: Mapping[int, Description] = field(default_factory=dict[int, Description])
    again: Mapping[int, Description] = field(default_factory=dict[int, Description])

    @property
    def layer(self) -> int:
        """The number at the end of its site."""
        return int(self.site.rpartition(".")[2])


@dataclass(frozen=True)
class Story:
    """What the figures are made of.

    steps: SAEs of neighbouring sites, in order; chain: SAEs of one level over the most sites; levels: SAEs of two
    neighbouring sites at several levels, as pairs of one level. texts: by name, the first held out from training.
    contexts: read of every text; loss_contexts: of them, those on which the LM is run on to its loss.
    judge: of descriptions, on a scale of 1 to 3 or (scale false) otherwise.
    """

    lm: LanguageModel
    texts: Mapping[str, PackedText]
    steps: Sequence[tuple[Member, Member]]
    chain: Sequence[Member]
    levels: Sequence[tuple[Member, Member]]
    judge: Judge
    scale: bool
    contexts: int = 24
    loss_contexts: int = 8
    pairs: int = 100
    seed: int = 0
    progress: Progress = SILENT
    made: dict[tuple[str, str, Fold, Parts], Matching] = field(default_factory=dict)

    @cached_property
    def members(self) -> dict[str, Member]:
        """Every SAE by name."""
        every = [*(m for pair in self.steps for m in pair), *self.chain, *(m for pair in self.levels for m in pair)]
        return {m.name: m for m in every}

    @cached_property
    def passes(self) -> dict[str, PathPass]:
        """Every text, read once at all sites."""
        sites = list(dict.fromkeys(m.site for m in self.members.values()))
        return {name: read_path(self.lm, text, sites, self.contexts) for name, text in self.texts.items()}

    @property
    def own(self) -> PathPass:
        """The text that was held out."""
        return next(iter(self.passes.values()))

    @cached_property
    def kept(self) -> Tensor:
        """Positions that count at every site of the held-out text."""
        return self.own.kept({m.site for m in self.members.values()})

    @cached_property
    def on(self) -> dict[str, Tensor]:
        """Which features of every SAE are on there."""
        with torch.inference_mode():
            return {n: m.sae.encode(self.own.states[m.site][self.kept]) > 0 for n, m in self.members.items()}

    @cached_property
    def folded(self) -> dict[str, FoldedFeatures]:
        """Every SAE's features in the paper's units."""
        return {name: features_of(m.sae, self.fold, activations=self.rows(m)) for name, m in self.members.items()}

    @cached_property
    def fold(self) -> Fold:
        """The paper's fold, or where an SAE has no thresholds the mean of its codes."""
        return "theta" if all(has_thresholds(m.sae) for m in self.members.values()) else "mean"

    def rows(self, member: Member) -> Tensor:
        """The states at an SAE's site on the held-out text."""
        return self.own.states[member.site][self.kept]

    def matched(self, a: Member, b: Member, how: str) -> Pairs:
        """One of the matchings of two SAEs."""
        fold, parts = HOW[how]
        return self.matched_by(a, b, self.fold if how == FOLDED else fold, parts)

    def matched_by(self, a: Member, b: Member, fold: Fold, parts: Parts) -> Pairs:
        """A full matching of two SAEs, made once."""
        asked = a.name, b.name, fold, parts
        if asked not in self.made:
            rows = (self.rows(a), self.rows(b))
            self.made[asked] = match(a.sae, b.sae, fold=fold, parts=parts, activations=rows, seed=self.seed)
        return self.made[asked].permutation

    @property
    def gap(self) -> float:
        """The largest gap of the matchings that were made, as a share of the cost."""
        return max((m.gap / m.cost for m in self.made.values() if m.cost), default=0.0)

    @cached_property
    def stepped(self) -> dict[tuple[str, str], dict[str, Pairs]]:
        """Of every step its matchings by name, chance among them."""
        found = {}
        with self.progress.task("matching steps", len(self.steps), "steps") as task:
            for a, b in self.steps:
                pairs = {how: self.matched(a, b, how) for how in HOW}
                found[a.name, b.name] = pairs | {CHANCE: baselines.random_pairs(len(pairs[FOLDED]), self.seed)}
                task.advance()
        return found

    def scale_of(self, member: Member, how: str) -> Tensor:
        """The scale of each feature's codes under a way of matching."""
        if how == FOLDED:
            return self.folded[member.name].scale
        return features_of(member.sae, HOW[how][0]).scale

    def shared(self, a: Member, b: Member, pairs: Pairs) -> Sums:
        """The two halves of the matching score by document."""
        return coactive(self.on[a.name], self.on[b.name], pairs, self.own.documents[self.kept])

    def score(self, a: Member, b: Member, pairs: Pairs) -> Estimate:
        """The matching score, with its interval over documents."""
        return ratio_estimate(self.shared(a, b, pairs), name=f"story/{a.name}/{b.name}", seed=self.seed)

    @cached_property
    def answers(self) -> dict[tuple[str, str], pl.DataFrame]:
        """Of every step what the judge said of its pairs."""
        found = {}
        for a, b in self.steps:
            named = {how: pairs for how, pairs in self.stepped[a.name, b.name].items() if how != CHANCE}
            found[a.name, b.name] = compared(
                self.judge, a.described, b.described, named, again=a.again, pairs=self.pairs, seed=self.seed,
                progress=self.progress,
            )  # fmt: skip
        return found

    @cached_property
    def level(self) -> float | None:
        """From which answer on a pair is the same."""
        return same_level(pl.concat(self.answers.values()), scale=self.scale)

    @property
    def middle(self) -> tuple[Member, Member]:
        """The step of which single pairs are shown: the last of the chain."""
        return self.chain[-2], self.chain[-1]
