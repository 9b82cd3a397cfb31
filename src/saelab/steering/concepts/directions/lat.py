"""Linear artificial tomography (arXiv 2310.01405, as AxBench has it): the direction along which random pairs differ.

The concept's tokens are paired at random; v is the first principal component of the normalised differences.
"""

import torch

from saelab.core.seeds import seed_of
from saelab.steering.concepts.directions.linear import first_component, pointed
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction


def lat(examples: Examples, using: Fitting) -> Direction:
    """First component of (h_i - h_j) / |h_i - h_j| over random disjoint pairs of the concept's tokens."""
    shown = examples.shown
    generator = torch.Generator().manual_seed(seed_of(using.seed, "steering", "lat", examples.site, examples.concept))
    order = torch.randperm(len(shown), generator=generator)
    half = len(shown) // 2
    difference = shown[order[:half]] - shown[order[half : 2 * half]]
    length = difference.norm(dim=-1, keepdim=True)
    return pointed(first_component(difference / length.clamp(min=1e-9), centred=False), examples, "lat")
