"""How far each feature of a set is moved, by what the study's `strength` holds.

    site          one distance for all SAEs of the site: that of the chosen dose for their median feature
    sae, feature  the distance at which the set's median feature, or each feature, has the chosen dose
    feature_dev   of the site's distances the one with the largest lift on the feature's own dev texts
    factors       a factor, chosen on the pooled dev, times the feature's largest activation (AxBench, arXiv 2501.17148)

A feature that shows at no dose of its dev has the state `no_dev_signal` and is moved as the site's are. Knows no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saelab.instrument.bench import Bench, Grid
from saelab.instrument.config import InstrumentConfig
from saelab.instrument.dose import choose
from saelab.instrument.outcomes import by_text
from saelab.instrument.readers import HEADLINE, Features
from saelab.instrument.texts import texts_of

PROBED = 8  # features whose KL says what a factor comes to


@dataclass(frozen=True)
class Reach:
    """The dose that each feature is steered at, in nats of the median feature, its distance, and its state."""

    doses: tuple[float, ...]
    strengths: tuple[float, ...]
    states: tuple[str, ...]


def reach_of(bench: Bench, name: str, features: Features, chosen: Mapping[str, Any]) -> Reach:
    """How far the features of a set are moved. chosen: what the site's dev came to (site.py)."""
    held = bench.sizes.strength if isinstance(bench.sizes, InstrumentConfig) else "site"
    n, dose = len(features), float(chosen["dose"])
    if held == "feature":
        return _own(bench, name, features, dose)
    if held == "sae" or chosen["strength"] is None:
        return _all(dose, [bench.distance(name, features, dose)] * n)
    if held == "factors":
        return _all(dose, [float(chosen["factor"] * peak) for peak in features.peaks])
    if held == "feature_dev":
        return _best_of_each(bench, name, features, chosen)
    return _all(dose, [float(chosen["strength"])] * n)


def factor_grid(bench: Bench, features: Features, factors: Sequence[float]) -> Grid:
    """By factor, the KL of the median feature in nats and how far each feature is moved."""
    probed = np.unique(np.linspace(0, len(features) - 1, min(PROBED, len(features))).astype(int))
    found = {}
    for factor in factors:
        reach = [float(factor * peak) for peak in features.peaks]
        nats = float(np.median([bench.probe.kl(features.directions[k], reach[k]) for k in probed]))
        found[factor] = (nats, reach)
    return found


def _best_of_each(bench: Bench, name: str, features: Features, chosen: Mapping[str, Any]) -> Reach:
    """Each feature's own best of the site's distances, the site's where none shows."""
    grid = {float(d): (float(d), float(s)) for d, s in zip(chosen["doses"], chosen["distances"], strict=True)}
    dev = bench.over(f"{name}.dev", features, range(bench.sizes.dev_copies), grid)
    owner = next(iter(dev.values())).table["owner"].to_numpy()
    lifts = {d: by_text(m.values[HEADLINE], texts_of(m.table))["lift"].fill_null(np.nan).to_numpy()
             for d, m in dev.items()}  # fmt: skip
    best = [choose({d: lift[owner == k] for d, lift in lifts.items()}, seed=bench.sizes.seed)
            for k in range(len(features))]  # fmt: skip
    doses = tuple(float(chosen["dose"]) if b.dose is None else b.dose for b in best)
    distances = {d: distance for d, distance in grid.values()} | {float(chosen["dose"]): float(chosen["strength"])}
    return Reach(doses, tuple(distances[d] for d in doses), tuple(b.state for b in best))


def _own(bench: Bench, name: str, features: Features, dose: float) -> Reach:
    """Each feature as far as gives it the dose; one that has it at no distance goes as far as the median feature."""
    found = bench.distances(features, dose)
    median = bench.distance(name, features, dose) if None in found else 0.0
    states = tuple("ok" if d is not None else "dose_not_reached" for d in found)
    return Reach((dose,) * len(found), tuple(median if d is None else d for d in found), states)


def _all(dose: float, strengths: Sequence[float]) -> Reach:
    return Reach((dose,) * len(strengths), tuple(strengths), ("ok",) * len(strengths))
