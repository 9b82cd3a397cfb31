"""Steering with the features of one SAE: what its arms chose, at the site's dose, read by the readers of all of them.

Writes, going on where it was interrupted:

- outcomes.parquet   a row per (feature, arm, outcome): the columns of `outcomes.FEATURES`, and beside them strength,
                     share of the stream's norm, KL of the feature there, NLL and distinct bigrams of its texts, state,
                     and the dose that it is moved by with that dose's state (strengths.py)
- readings.parquet   a row per text, the site's unsteered ones last: feature (-1), prompt, text, likelihoods, and its
                     percentile and lift by every outcome
- texts/             the same texts with what they were read by

A feature can be steered with where it is described, fires, and is active in enough windows to be read. An SAE with
fewer than three of those has no outcomes: both tables are empty, and the manifest says how many there were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import seed_of
from saelab.instrument.bench import Bench, Measured
from saelab.instrument.kept import digest_of_sae, of_lm, opened
from saelab.instrument.outcomes import FEATURES, UNSTEERED, by_text
from saelab.instrument.readers import OUTCOMES, Features
from saelab.instrument.site import LEAST, Place
from saelab.instrument.strengths import Reach, reach_of
from saelab.instrument.texts import TABLE, texts_of
from saelab.saes.transcoder import AnySae
from saelab.steering.arms import Arm, filled
from saelab.store.folders import InstrumentFolder, SteeringFolder

OUTCOME_TABLE = {
    "feature": pl.Int64, "arm": pl.String, "outcome": pl.String,
    **{name: kind for name, kind in FEATURES.items() if name != "feature"},
    "strength": pl.Float64, "share": pl.Float64, "kl_per_token": pl.Float64, "nll": pl.Float64, "distinct": pl.Float64,
    "state": pl.String, "dose": pl.Float64, "dose_state": pl.String,
}  # fmt: skip
TEXT_COLUMNS = ("prompt", "answer", "copy", "text", "n_tokens", "strength", "nll", "distinct")
READING_TABLE = {
    "feature": pl.Int64,
    **{name: TABLE[name] for name in TEXT_COLUMNS},
    **{f"{outcome}{part}": pl.Float64 for outcome in OUTCOMES for part in ("", "_lift")},
}


def run(
    place: Place,
    gate: InstrumentFolder,
    sae: AnySae,
    arms: Sequence[Arm],
    *,
    able: pl.DataFrame,
    effects: pl.DataFrame,
    folder: Path,
    seed: int,
    progress: Progress = SILENT,
) -> list[Path]:
    """Steer with what the arms choose; returns the files written.

    gate: the site's, with its dose and its unsteered texts. able: features that are described and fire (column
    `feature`); effects: selection's table. seed: names the random arm's draw.
    """
    config, kept, digest = place.config, SteeringFolder(folder), digest_of_sae(sae)
    chosen_dose = gate.gate.read()["chosen"]
    dictionary = place.coded(sae)
    readable = [f for f in able["feature"].to_list() if dictionary.readable(f)]
    chosen = {} if len(readable) < LEAST else _filled(arms, able, effects, readable, seed)
    numbers = sorted({f for members in chosen.values() for f in members})
    asked = {
        "config": config.settings, "lm": of_lm(place.lm), "site": place.text.site,
        "sae": digest, "arms": {name: list(members) for name, members in chosen.items()},
        "dose": chosen_dose, "text": place.text.packed.digest(), "reader": place.embed.name,
        "prompts": [list(p.ids) for p in place.desk.prompts], "n_described": able.height, "n_readable": len(readable),
    }  # fmt: skip
    keep = opened(kept, asked)
    if len(numbers) < LEAST:
        written = [kept.outcomes.write(pl.DataFrame(schema=OUTCOME_TABLE))]
        return [*written, kept.readings.write(pl.DataFrame(schema=READING_TABLE)), kept.manifest.path]
    features = dictionary.features(numbers, place.embed)
    bench = Bench(
        config,
        # SAEs are units of the statistics, so that the texts of two of them share no random draw.
        replace(place.desk, seed=seed_of(place.desk.seed, digest)),
        place.probe,
        lambda name, write: gate.step(name).read(list(TABLE)) if name == "unsteered" else keep(name, write),
        progress,
    )
    reach = reach_of(bench, "features", features, chosen_dose)
    found = bench.measured("features", features, reach.doses, range(config.feature_copies), reach.strengths)
    kept.outcomes.write(_outcomes(bench, found, (features, reach), numbers, chosen))
    kept.readings.write(_readings(found, numbers))
    return [kept.outcomes.path, kept.readings.path, kept.manifest.path, *sorted(kept.texts.iterdir())]


def _filled(
    arms: Sequence[Arm], able: pl.DataFrame, effects: pl.DataFrame, readable: Sequence[int], seed: int
) -> dict[str, list[int]]:
    return filled(arms, able.filter(pl.col("feature").is_in(list(readable))), effects, seed)


def _outcomes(
    bench: Bench,
    found: Measured,
    moved: tuple[Features, Reach],
    numbers: Sequence[int],
    arms: Mapping[str, Sequence[int]],
) -> pl.DataFrame:
    """A row per (feature, arm, outcome), by arm in their order."""
    features, reach = moved
    texts = found.steered.group_by("owner", maintain_order=True).agg(
        pl.col("strength", "share").first(), pl.col("nll", "distinct").mean()
    )
    probe = bench.probe.short()
    kl = [probe.kl(v, s) for v, s in zip(features.directions, reach.strengths, strict=True)]
    own = pl.DataFrame({"dose": reach.doses, "dose_state": reach.states, "kl_per_token": kl})
    beside = pl.concat([texts.rename({"owner": "feature"}), own], how="horizontal")
    whole = pl.concat(
        [table.join(beside, on="feature").with_columns(outcome=pl.lit(name)) for name, table in found.tables.items()]
    ).with_columns(
        feature=pl.col("feature").replace_strict(dict(enumerate(numbers)), return_dtype=pl.Int64),
        state=pl.when(pl.col("lift").is_null()).then(pl.lit("missing")).otherwise(pl.lit("ok")),
    )
    parts = [whole.filter(pl.col("feature").is_in(list(m))).with_columns(arm=pl.lit(a)) for a, m in arms.items()]
    found_rows = pl.concat(parts).select(list(OUTCOME_TABLE))
    return found_rows.cast(OUTCOME_TABLE)  # pyright: ignore[reportArgumentType]  (its stub wants type objects alone)


def _readings(found: Measured, numbers: Sequence[int]) -> pl.DataFrame:
    """A row per text with the feature's own number."""
    texts = texts_of(found.table)
    columns = []
    for outcome, values in found.values.items():
        read = by_text(values, texts)
        columns += [read["percentile"].alias(outcome), read["lift"].alias(f"{outcome}_lift")]
    names = np.array([*numbers, UNSTEERED])  # owner -1 is the last
    feature = pl.Series("feature", names[texts.owner])
    return found.table.select(TEXT_COLUMNS).with_columns(feature, *columns).select(list(READING_TABLE))
