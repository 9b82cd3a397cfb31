"""What was steered before, read again from the texts that it left: the readers are made anew, nothing is written.

Texts keep what they are read by and not who reads them. A set's readers follow from the SAE (or the random dictionary)
and the text of its site; where they do not give the percentiles that were written down, they are not those. A judge
that was asked is not asked again: its answers are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from saelab.core.errors import ArtefactError
from saelab.instrument.bench import Bench, Measured
from saelab.instrument.kept import step_of
from saelab.instrument.readers import OUTCOMES, Features
from saelab.instrument.site import Place, dictionary_features, dictionary_name
from saelab.saes.transcoder import AnySae
from saelab.store.folders import InstrumentFolder, SteeringFolder, StepsFolder

OWN = "features"  # the set of an SAE's texts
ALIKE = 0.02  # of a percentile: two machines round alike to less


@dataclass(frozen=True, eq=False)
class Again:
    """A set that was steered with: the number of each feature, how each is read, and its texts with their readings."""

    numbers: tuple[int, ...]
    features: Features
    measured: Measured


def sae_again(place: Place, gate: InstrumentFolder, sae: AnySae, kept: SteeringFolder) -> Again:
    """What steering with an SAE's features measured. Raises `ArtefactError` where the readers are not the same."""
    outcomes = kept.outcomes.read(["feature", "outcome", "percentile"])
    numbers = sorted(outcomes["feature"].unique().to_list())
    again = _read(place, (gate, kept), OWN, place.coded(sae).features(numbers, place.embed))
    known = {o: dict(outcomes.filter(outcome=o).select("feature", "percentile").iter_rows()) for o in OUTCOMES}
    return _checked(again, known, str(kept.root))


def dictionary_again(place: Place, gate: InstrumentFolder, size: tuple[int, int]) -> Again:
    """The same of the site's random dictionary of this width and level."""
    name = dictionary_name(*size)
    table = gate.features.read(["set", "outcome", "name", "percentile"]).filter(set=name)
    again = _read(place, (gate, gate), name, dictionary_features(place, *size))
    rows = {o: table.filter(outcome=o).select("name", "percentile").iter_rows() for o in OUTCOMES}
    return _checked(again, {o: {int(f): p for f, p in found} for o, found in rows.items()}, f"{gate.root} {name}")


def _read(place: Place, folders: tuple[InstrumentFolder, StepsFolder], name: str, features: Features) -> Again:
    gate, kept = folders
    step = step_of(kept, name)

    def keep(wanted: str, write: object) -> pl.DataFrame:
        del write
        return (gate if wanted == "unsteered" else kept).step(wanted).read()

    bench = Bench(place.config, place.desk, place.probe, keep)
    found = bench.read(name, kept.step(step).read(), features, step)
    return Again(tuple(int(f) for f in features.names), features, found)


def _checked(again: Again, known: Mapping[str, Mapping[int, float | None]], where: str) -> Again:
    """The same, where every feature's mean percentile is the one that was written down."""
    for outcome, percentile in known.items():
        made = pl.Series(again.measured.tables[outcome]["percentile"]).cast(pl.Float64).fill_null(np.nan).to_numpy()
        kept = np.array([np.nan if percentile.get(f) is None else percentile[f] for f in again.numbers], float)
        if not np.allclose(made, kept, rtol=0, atol=ALIKE, equal_nan=True):
            raise ArtefactError(
                f"The readers of {where}, made again, do not give the percentiles that it holds.",
                hint="The SAE, the text or the language model is another than when it was steered.",
            )
    return again
