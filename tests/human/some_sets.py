"""Steered sets by hand: so many features and texts, read by two judges that see the steered text now and then."""

import numpy as np
import polars as pl

from saelab.core.seeds import numpy_generator
from saelab.human.shown import SteeredSet
from saelab.instrument.readers import OUTCOMES

PROMPTS = ("I think that", "Describe a morning.")


def some_set(name: str, n: int = 12, *, control: bool = False, copies: int = 1, sees: float = 0.8) -> SteeredSet:
    """Features 0, 3, 6, ... each with a text per prompt and copy, then 10 unsteered texts per prompt. sees: how often
    the reading of the own text is the largest."""
    rng = numpy_generator("some set", name)
    owners = [k for k in range(n) for _ in range(2 * copies)] + [-1] * 20
    prompts = [p for _ in range(n) for p in PROMPTS for _ in range(copies)] + [p for p in PROMPTS for _ in range(10)]
    copy = [c for _ in range(2 * n) for c in range(copies)] + [*range(10), *range(10)]
    texts = [f"{name} text {i} by {o}" for i, o in enumerate(owners)]
    table = pl.DataFrame(
        {"owner": owners, "prompt": prompts, "answer": [p == PROMPTS[1] for p in prompts], "copy": copy, "text": texts}
    )
    own = np.array(owners)[None, :] == np.arange(n)[:, None]
    readings = {o: np.where(own & (rng.random(own.shape) < sees), 2.0, rng.random(own.shape)) for o in OUTCOMES}
    features = pl.DataFrame(
        {"feature": [3 * k for k in range(n)], "about": [f"term {k}\nas in: one {k} | two {k}" for k in range(n)]}
        | {o: values.tolist() for o, values in readings.items()}
    )
    arms = {} if control else {3 * k: ("delta_confidence", "random") if k % 4 == 0 else ("random",) for k in range(n)}
    return SteeredSet(name, control, table, features, arms, {o: f"{o} by hand" for o in OUTCOMES})


def some_sets(n: int = 12) -> list[SteeredSet]:
    """Three SAEs and a random dictionary, whose texts nobody can tell."""
    return [some_set(f"sae{i}", n) for i in range(3)] + [some_set("random", n, control=True, sees=0.0)]
