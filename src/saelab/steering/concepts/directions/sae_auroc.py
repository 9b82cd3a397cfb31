"""The SAE feature that tells the concept's texts best: by AUROC of its largest code in a text (AxBench's SAE-A)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.classifiers import aurocs
from saelab.saes.base import Sae
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples, TextRows
from saelab.steering.direction import Direction
from saelab.steering.directions.sae_feature import sae_feature


def sae_auroc(examples: Examples, using: Fitting) -> Direction:
    """The feature's direction; strength by its largest code in the concept's texts."""
    sae = using.sae
    assert sae is not None
    pooled = largest_codes(examples.rows, sae)
    feature = int(aurocs(pooled.numpy(), examples.positive.numpy()).argmax())
    direction = sae_feature(sae, feature, float(pooled[examples.positive, feature].max()))
    origin = f"{examples.concept} (feature {feature})"
    return replace(direction, method="sae_auroc", origin=origin, distance_source="largest training code")


def largest_codes(rows: TextRows, sae: Sae, *, block: int = 4096) -> Float[Tensor, "X F"]:
    """Each feature's largest code in each text."""
    found = torch.zeros(rows.n_texts, sae.W_dec.shape[0])
    for values, text in zip(rows.values.split(block), rows.text.split(block), strict=True):
        codes = sae.encode(values)
        found = found.scatter_reduce(0, text[:, None].expand_as(codes), codes, "amax")
    return found
