"""Every criterion by name. A new one is a file beside this and one line here; all checks run over this list.

`EFFECTS` read the effect of an edit on the next token. The others read weights (`lens_moments`), contexts
(`input_score`) or nothing (`blind_score`) and have their own signatures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.selection.criteria.concept_lift import concept_lift
from saelab.selection.criteria.delta_confidence import delta_confidence
from saelab.selection.criteria.divergence import js, kl, kl_reverse
from saelab.selection.criteria.entropy_change import entropy_change
from saelab.selection.criteria.observation import Observation
from saelab.selection.criteria.output_score import output_score, output_score_paper


@dataclass(frozen=True)
class Criterion:
    """A named score of a feature's effect. `signed` criteria have two tails worth choosing from."""

    name: str
    score: Callable[[Observation], Float[Tensor, "B"]]
    signed: bool
    unit: str
    source: str


EFFECTS = {
    c.name: c
    for c in (
        Criterion("delta_confidence", delta_confidence, True, "nats", "arXiv 2510.03659"),
        Criterion("output_score", output_score, False, "probability", "arXiv 2505.20063, released code"),
        Criterion("output_score_paper", output_score_paper, False, "probability", "arXiv 2505.20063, equation"),
        Criterion("kl", kl, False, "nats", "KL(base || steered)"),
        Criterion("kl_reverse", kl_reverse, False, "nats", "KL(steered || base)"),
        Criterion("js", js, False, "nats", "Jensen-Shannon"),
        Criterion("entropy_change", entropy_change, True, "nats", "H(steered) - H(base)"),
        Criterion("concept_lift", concept_lift, True, "nats", "needs the concept's tokens"),
    )
}
LENS = ("lens_spread", "lens_skew", "lens_kurtosis")
DEFAULT = ("delta_confidence", "output_score", "kl", "entropy_change")


def criteria_of(names: Sequence[str]) -> list[Criterion]:
    """The effect criteria of these names, or a `UserError` with the nearest ones."""
    for name in names:
        if name not in EFFECTS:
            raise UserError(f"There is no criterion {name!r}.", hint=nearest(name, EFFECTS))
    return [EFFECTS[name] for name in names]
