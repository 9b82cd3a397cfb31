"""Every criterion by name, with all that others need of it. A new one is a file beside this and one line here.

What a criterion reads decides where it is computed: `effect` (an `Observation` of the edited next token) and `lens`
(the moments of the logit lens) in `selection/effects.py`, `contexts` (interp's top contexts) and `nothing` where their
tables are. Studies, costs, tables and the page iterate over this list and name no criterion themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from saelab.core.errors import UserError, nearest
from saelab.core.names import Measure
from saelab.selection.criteria import divergence, lens_moments, output_score
from saelab.selection.criteria.concept_lift import concept_lift
from saelab.selection.criteria.delta_confidence import delta_confidence
from saelab.selection.criteria.entropy_change import entropy_change
from saelab.selection.criteria.input_score import input_scores
from saelab.selection.criteria.random_control import blind_score

Reads = Literal["effect", "concept", "lens", "contexts", "nothing"]


@dataclass(frozen=True)
class Criterion(Measure):
    """A named score of a feature. `signed` ones (see `Measure`) have two tails worth choosing from.

    score: by what it `reads`: effect and concept: `Observation` -> [B] (concept: it needs the concept's tokens); lens:
    `Lens` -> [B]; contexts: (effects, contexts) -> effects with its column; nothing: (features, seed) -> [F].
    usual: computed unless a study says otherwise. chosen: features of each tail that a study steers with by default.
    """

    score: Callable[..., Any] = field(kw_only=True)
    reads: Reads = "effect"
    source: str = ""
    usual: bool = False
    chosen: int = 0

    @property
    def tail(self) -> Literal["up", "both"]:
        """Where the features worth steering with are."""
        return "both" if self.signed else "up"


_OUTPUT, _LENS = "arXiv 2505.20063", "Bloom and Lin 2024"
CRITERIA: dict[str, Criterion] = {
    c.name: c
    for c in (
        Criterion("delta_confidence", "Delta Token Confidence", "nats", True, score=delta_confidence,
                  source="arXiv 2510.03659", usual=True, chosen=5),
        Criterion("output_score", "output score", "probability", score=output_score.output_score,
                  source=f"{_OUTPUT}, released code", usual=True, chosen=10),
        Criterion("output_score_paper", "output score less its base", "probability",
                  score=output_score.output_score_paper, source=f"{_OUTPUT}, equation"),
        Criterion("input_score", "input score", "share", score=input_scores, reads="contexts", source=_OUTPUT),
        Criterion("kl", "KL divergence of the effect", "nats", score=divergence.kl, source="KL(base || steered)",
                  usual=True),
        Criterion("kl_reverse", "reverse KL divergence of the effect", "nats", score=divergence.kl_reverse,
                  source="KL(steered || base)"),
        Criterion("js", "Jensen-Shannon divergence of the effect", "nats", score=divergence.js),
        Criterion("entropy_change", "entropy change", "nats", True, score=entropy_change,
                  source="H(steered) - H(base)", usual=True),
        Criterion("concept_lift", "concept-logit lift", "nats", True, score=concept_lift, reads="concept"),
        Criterion("lens_spread", "spread of the logit lens", score=lens_moments.spread, reads="lens", source=_LENS),
        Criterion("lens_skew", "skew of the logit lens", score=lens_moments.skew, reads="lens", source=_LENS,
                  usual=True),
        Criterion("lens_kurtosis", "kurtosis of the logit lens", score=lens_moments.kurtosis, reads="lens",
                  source=_LENS, usual=True),
        Criterion("random", "random numbers (control)", score=blind_score, reads="nothing"),
    )
}  # fmt: skip
COMPUTED: tuple[Reads, ...] = ("effect", "concept", "lens")  # by selection/effects.py, of a language model and an SAE


def usual() -> tuple[str, ...]:
    """What is computed unless something else is asked for."""
    return tuple(c.name for c in CRITERIA.values() if c.usual)


def that_read(*kinds: Reads) -> tuple[str, ...]:
    """The names of the criteria that read these."""
    return tuple(c.name for c in CRITERIA.values() if c.reads in kinds)


def criteria_of(names: Sequence[str]) -> list[Criterion]:
    """The criteria of these names that effects can be scored by, or a `UserError` with the nearest ones."""
    known = that_read(*COMPUTED)
    for name in names:
        if name not in known:
            raise UserError(f"There is no criterion {name!r} of an effect.", hint=nearest(name, known))
    return [CRITERIA[name] for name in names]
