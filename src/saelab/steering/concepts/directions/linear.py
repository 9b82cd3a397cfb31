"""What the fitted directions share: from a raw vector to a `Direction` that points at the concept and knows its scale.

The sign is settled on the training texts (the concept's texts score higher on average), where AxBench leaves it to
chance for PCA and LAT. Factor 1 is the largest score of the concept's training texts, `max_t h_t . v`: AxBench's
rule, with training in place of evaluation texts.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction, unit


def pointed(vector: Float[Tensor, "D"], examples: Examples, method: str) -> Direction:
    """The direction along `vector`, turned towards the concept's texts."""
    vector = vector / vector.norm()
    shown, others = examples.shown @ vector, examples.others @ vector
    if float(shown.mean()) < float(others.mean()):
        vector, shown = -vector, -shown
    largest = float(shown.max())
    if not largest > 0:
        raise UserError(
            f"{method}: no text of {examples.concept!r} scores above zero, so there is no scale to steer by."
        )
    return unit(
        vector,
        site=examples.site,
        distance=largest,
        method=method,
        origin=examples.concept,
        source="largest training score",
    )


def first_component(rows: Float[Tensor, "N D"], *, centred: bool) -> Float[Tensor, "D"]:
    """The first principal component, from the eigenvectors of the second-moment matrix (D is small, N is not)."""
    rows = rows - rows.mean(0) if centred else rows
    return torch.linalg.eigh(rows.double().T @ rows.double()).eigenvectors[:, -1].float()
