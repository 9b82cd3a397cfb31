"""What the report is made of: the artefacts of a run, read once, each either a table or a reason for its absence.

The only module of the report that reads. A file that is not there is an absence with a sentence; a file that is there
but broken, or that lacks a needed column, is an `ArtefactError` and there is no report. Knows nothing of HTML.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.instrument.readers import HEADLINE, RANDOM
from saelab.report.names import Names, coordinates
from saelab.report.words import finite
from saelab.steering.methods import SAE_FEATURE
from saelab.store.files import read_json
from saelab.store.folders import InstrumentFolder
from saelab.store.layout import RunFolder
from saelab.store.sums import steered_texts
from saelab.store.tables import read_table

SAES = ("sae", "lm", "site", "architecture", "level", "l0", "fvu", "ce_recovered", "interpretability", "utility")
AGREEMENT = ("x", "y", "mode", "axis", "group", "statistic", "value", "low", "high", "n", "p", "state")
SELECTION = ("sae", "arm", "score", "low", "high", "gain", "n", "state")
FEATURE_LEVEL = ("predictor", "response", "statistic", "value", "low", "high", "n", "n_saes", "state")
QUESTIONS = ("question", "about", "y", "value", "low", "high", "p", "p_holm", "n", "state", "note", "null_low")
TRAINING = ("sae", "tokens", "fvu", "l0", "dead_share")
FEATURES = ("feature", "density", "description", "balanced_accuracy", "auroc", "state")
CONTEXTS = ("feature", "rank", "tokens", "activations", "peak")
UTILITY = ("feature", "method", "factor", "test_score", "n_missing", "state")
GENERATIONS = ("generation", "feature", "method", "factor", "instruction_id", "instruction", "split", "text")
OUTCOMES = ("feature", "arm", "outcome", "percentile", "lift", "strength", "share", "kl_per_token", "state")
READINGS = ("feature", "prompt", "answer", "copy", "text", HEADLINE, f"{HEADLINE}_lift")
DICTIONARY = ("set", "outcome", "percentile", "lift")
ARMS = ("outcome", "arm", "percentile", "lift", "difference", "less", "n", "n_saes")
# What columns of the tables of statistics were called before 29 November 2026.
FORMER: dict[str, dict[str, str]] = {"stats/arms": {"criterion": "arm"}, "stats/features": {"outcome": "response"}}
FORMER["stats/selection"] = {"criterion": "arm", "lift": "gain", "lift_low": "gain_low", "lift_high": "gain_high"}
SPREAD = ("score", "items", "repeats", "f", "p", "reliability", "se", "smallest", "state")
BASELINES = ("control", "score", "saes", "trained", "untrained", "difference", "low", "high", "told", "state", "method")
CONTROLS = ("lm", "site", "name", "outcome", "value", "low", "high", "n", "p", "bound", "holds", "state")
DOSES = ("lm", "site", "set", "dose", "outcome", "lift", "low", "high")
EVALUATIONS = ("kind", "metric", "value", "preset", "reason")
HUMAN = ("rater", "what", "of", "value", "low", "high", "n", "neither", "by_hits", "says", "texts")
JUDGEMENTS = ("generation", "rubric", "state", "value")


@dataclass(frozen=True)
class SaePair:
    """One matching of two SAEs: its quality record and how many of the first SAE's features have a partner."""

    first: str
    second: str
    quality: dict[str, Any]
    matched: int
    features: int

    @property
    def layers(self) -> tuple[int, int]:
        """The layers of the two sites, read from the ends of the SAE names ("jumprelu.l0_32.resid_post.15")."""
        first, second = (name.rpartition(".")[2] for name in (self.first, self.second))
        return (int(first), int(second)) if first.isdecimal() and second.isdecimal() else (0, 0)

    @property
    def span(self) -> int:
        """How many blocks lie between the two sites."""
        return abs(self.layers[1] - self.layers[0])

    def values(self, measure: str) -> dict[str, float]:
        """A measure of the matching and of what it is compared with, by name; what does not exist is left out.

        measure: "cost" (per matched feature, folded units), "matching_score", "explained_variance" or "ce_change" (of
        the skip). Names: matched, composed, chance, and those of the quality record's `baselines` and `compared_with`.
        """
        q = self.quality
        composed = q.get("composed") or {}
        if measure == "cost":
            costs = {k: v for k, v in (q.get("baselines") or {}).items() if not k.endswith("_share")}
            found = {"matched": _per(q.get("cost"), self.matched)}
            found |= {name: _per(cost, self.features) for name, cost in costs.items()}
        elif measure == "matching_score":
            found = {"matched": q.get(measure), "composed": composed.get(measure), "chance": q.get("chance")}
        else:
            records = {"matched": q.get("skip"), "composed": composed.get("skip")} | (q.get("compared_with") or {})
            found = {name: (record or {}).get(measure) for name, record in records.items()}
        return {k: known for k, v in found.items() if (known := finite(v)) is not None}

    @property
    def label(self) -> str:
        """The pair as a figure names it: the layers where the names have them."""
        return f"{self.layers[0]} → {self.layers[1]}" if self.span else f"{self.first} → {self.second}"


def _per(total: Any, count: int) -> float | None:
    known = finite(total)
    return None if known is None or not count else known / count


@dataclass(frozen=True)
class Paths:
    """Features followed over the sites of some SAEs: rows (path, site, feature, length), site an index of `saes`."""

    saes: tuple[str, ...]
    table: pl.DataFrame


@dataclass(frozen=True)
class Evidence:
    """What is known of one SAE's features, for the cards; None where the stage left nothing."""

    features: pl.DataFrame | None
    contexts: pl.DataFrame | None
    effects: pl.DataFrame | None
    utility: pl.DataFrame | None
    generations: pl.DataFrame | None
    judgements: pl.DataFrame | None
    outcomes: pl.DataFrame | None = None
    readings: pl.DataFrame | None = None


@dataclass(frozen=True)
class Material:
    """The tables of a whole run; None where the artefact does not exist.

    evaluations: one row per (SAE, metric) of SAEBench's suite. published: those of others' files, as they give them.
    compared: a row per aspect and pair of adopted SAEs (study/compare.py). baselines: a row per control of training and
    score (study/baselines.py).
    arms, spread, controls, doses: what the instrument says (study/steering.py). untrained: outcomes of the features of
    all random dictionaries. human: agreement of raters with judges, over the texts that its column names;
    steered_texts: the name of those that the run holds.
    candidates: one row per scored or steered feature (sae, feature, description, balanced_accuracy, percentile, ...).
    pairs: matchings from site to site; repeats: of two trainings of one SAE.
    states: (stage, state, reason, n), summed over the SAEs. judges: names of the judges that scored features.
    """

    summary: dict[str, Any]
    names: Names
    saes: pl.DataFrame | None
    agreement: pl.DataFrame | None
    selection: pl.DataFrame | None
    feature_level: pl.DataFrame | None
    questions: pl.DataFrame | None
    training: pl.DataFrame | None
    pairs: tuple[SaePair, ...]
    repeats: tuple[SaePair, ...]
    candidates: pl.DataFrame | None
    states: pl.DataFrame
    judges: tuple[str, ...]
    paths: tuple[Paths, ...] = ()
    evaluations: pl.DataFrame | None = None
    arms: pl.DataFrame | None = None
    spread: pl.DataFrame | None = None
    controls: pl.DataFrame | None = None
    doses: pl.DataFrame | None = None
    untrained: pl.DataFrame | None = None
    published: pl.DataFrame | None = None
    compared: pl.DataFrame | None = None
    baselines: pl.DataFrame | None = None
    human: pl.DataFrame | None = None
    steered_texts: str = ""

    @property
    def asked_about(self) -> pl.DataFrame | None:
        """The rows of `saes` that are no controls; of a run of controls alone, all."""
        own = self.saes if self.saes is None else self.saes.filter(~pl.col("sae").is_in(_controls(self.saes)))
        return own if own is None or own.height else self.saes

    @property
    def gate(self) -> str:
        """Whether steering was shown to be seen here: passed, failed or not_gated."""
        return str((self.summary.get("instrument") or {}).get("state") or "not_gated")

    @property
    def steers(self) -> bool:
        """Whether features were shown to steer more than a random dictionary's, without which no card says so."""
        low = (self.summary.get("steering_lift") or {}).get("low")
        return self.gate == "passed" and low is not None and low > 0


def read_material(run: RunFolder) -> Material:
    """Read everything but the cards' evidence. A folder with no artefact at all is a `UserError`."""
    run.check_readable()
    names = _folders(run.interp("").root) or _folders(run.steering("").root)
    candidates, states, judges = _per_sae(run, names)
    saes = _table(run.stats.table("saes").path, SAES) if run.stats.table("saes").exists else _measured(run, names)
    if candidates is not None:
        candidates = candidates.filter(~pl.col("sae").is_in(_controls(saes)))
    matched = _pairs(run)
    pairs = tuple(p for p in matched if not p.quality.get("repeat"))
    material = Material(
        summary=run.summary.read() if run.summary.exists else {},
        names=_names(run.names.path),
        saes=saes,
        agreement=_table(run.stats.table("agreement").path, AGREEMENT),
        selection=_table(run.stats.table("selection").path, SELECTION),
        feature_level=_table(run.stats.table("features").path, FEATURE_LEVEL),
        questions=_table(run.stats.table("questions").path, QUESTIONS),
        training=_training(run),
        pairs=pairs,
        repeats=tuple(p for p in matched if p.quality.get("repeat")),
        paths=_paths(run, pairs),
        candidates=candidates,
        states=states,
        judges=judges,
        evaluations=_evaluations(run, names),
        baselines=_table(run.stats.table("baselines").path, BASELINES),
        compared=_table(run.stats.table("compared").path, ("aspect", "first", "second", "difference", "better")),
        published=_table(run.stats.table("published").path, ("sae", "kind", "metric", "value", "differs")),
        arms=_table(run.stats.table("arms").path, ARMS),
        spread=_table(run.stats.table("spread").path, SPREAD),
        controls=_table(run.stats.table("controls").path, CONTROLS),
        doses=_table(run.stats.table("doses").path, DOSES),
        untrained=_untrained(run),
        human=_table(run.human.agreement.path, HUMAN),
        steered_texts=steered_texts(run),
    )
    if not material.summary and material.saes is None and material.training is None and not names:
        raise UserError(f"There is nothing to report in {run.root}.", hint="Run a study first: saelab run STUDY.yaml.")
    return material


def read_evidence(run: RunFolder, sae: str) -> Evidence:
    """Read what the cards of one SAE need."""
    return Evidence(
        features=_table(run.interp(sae).features.path, FEATURES),
        contexts=_table(run.interp(sae).contexts.path, CONTEXTS),
        effects=_table(run.selection(sae).effects.path, ("feature",)),
        utility=_table(run.ratings(sae).utility.path, UTILITY),
        generations=_table(run.ratings(sae).generations.path, GENERATIONS),
        judgements=_table(run.ratings(sae).judgements.path, JUDGEMENTS),
        outcomes=_table(run.steering(sae).outcomes.path, OUTCOMES),
        readings=_table(run.steering(sae).readings.path, READINGS),
    )


def _names(path: Path) -> Names:
    """The run's record of names; a run without one has none, and its page shows names as they are written."""
    if not path.exists():
        return Names()
    record = read_json(path)
    parts = record.values() if isinstance(record, dict) else [None]
    if not all(isinstance(p, dict) and all(isinstance(entry, dict) for entry in p.values()) for p in parts):
        raise ArtefactError(f"{path} is not a record of names.", hint="Run the study again: saelab run writes it.")
    return Names(**{f.name: record[f.name] for f in fields(Names) if f.name in record})


def _table(path: Path, columns: tuple[str, ...]) -> pl.DataFrame | None:
    """A table, if it is there; the columns of a former version (`FORMER`) by their names of today."""
    known = FORMER.get(f"{path.parent.name}/{path.stem}", {}) if path.exists() else {}
    former = {old: new for old, new in known.items() if old in read_table(path).columns}
    held = [next((old for old, new in former.items() if new == c), c) for c in columns]
    return read_table(path, held).rename(former).pipe(_no_nan) if path.exists() else None


def _no_nan(table: pl.DataFrame) -> pl.DataFrame:
    """NaN is not a value: tables that met one (through NumPy) say null from here on."""
    return table.with_columns(pl.selectors.float().fill_nan(None))


def _measured(run: RunFolder, names: list[str]) -> pl.DataFrame | None:
    """SAEs as their interpretation left them, before statistics are made: plain means, without intervals."""
    rows = []
    for sae in names:
        place, known = run.interp(sae), coordinates(sae)
        if known is None or not place.fidelity.exists or not place.features.exists:
            continue
        fidelity, features = place.fidelity.read(), place.features.read(FEATURES)
        scored = features.filter(pl.col("state") == "ok")["balanced_accuracy"].drop_nulls()
        random = fidelity["random_dictionary"]
        rows.append({
            "sae": sae, "lm": "", "architecture": known[0], "level": known[1],
            "site": "".join(re.findall(r"\.l0_\d+\.(?:from_[a-z_]+\.)?([a-z_]+\.\d+)", sae)),
            "control": next(iter(re.findall(r"\.(frozen_[a-z]+)$", sae)), None),
            **{name: fidelity[name] for name in ("l0", "fvu", "ce_recovered", "dead_share")},
            **{f"random_{name}": random[name] for name in ("fvu", "ce_recovered")},
            "random_interpretability": (random.get("interpretability") or {}).get("balanced_accuracy"),
            "interpretability": scored.mean(), "n_scored": scored.len(), "utility": None,
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None).pipe(_no_nan) if rows else None


def _controls(saes: pl.DataFrame | None) -> list[str]:
    """The SAEs that are controls of training; no card is about them."""
    known = saes is not None and "control" in saes.columns
    return saes.drop_nulls("control")["sae"].to_list() if saes is not None and known else []


def _folders(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []


def _training(run: RunFolder) -> pl.DataFrame | None:
    frames = [table.read(TRAINING).pipe(_no_nan) for table in run.metrics]
    return pl.concat([f.select(TRAINING) for f in frames], how="vertical_relaxed") if frames else None


def _untrained(run: RunFolder) -> pl.DataFrame | None:
    """The outcomes of the features of every random dictionary."""
    parent = run.instrument("lm", "site").root.parent
    folders = [InstrumentFolder(parent / name) for name in _folders(parent)]
    tables = [t for f in folders if (t := _table(f.features.path, DICTIONARY)) is not None]
    found = [t.filter(pl.col("set").str.starts_with(RANDOM)).select(DICTIONARY) for t in tables]
    return pl.concat(found) if found else None


def _evaluations(run: RunFolder, names: list[str]) -> pl.DataFrame | None:
    """The results of the suite of all SAEs that have some, one row per metric."""
    tables = {sae: _table(run.interp(sae).evaluations.path, EVALUATIONS) for sae in names}
    found = [t.select(pl.lit(sae).alias("sae"), *EVALUATIONS) for sae, t in tables.items() if t is not None]
    return pl.concat(found) if found else None


def _pairs(run: RunFolder) -> tuple[SaePair, ...]:
    found = []
    for folder in _folders(run.matching("", "").root.parent):
        first, mark, second = folder.partition("--")
        place = run.matching(first, second)
        if not mark or not place.quality.exists:
            continue
        table = _table(place.matching.path, ("a", "b"))
        sizes = (0, 0) if table is None else (table.filter(pl.col("b") >= 0).height, table.height)
        found.append(SaePair(first, second, place.quality.read(), *sizes))
    return tuple(found)


def _paths(run: RunFolder, pairs: tuple[SaePair, ...]) -> tuple[Paths, ...]:
    """The paths of the matchings end to end, with the SAEs of their sites (a chain of neighbours)."""
    onward = {p.first: p.second for p in pairs if not p.quality.get("composed")}
    found = []
    for pair in pairs:
        table = _table(run.matching(pair.first, pair.second).paths.path, ("path", "site", "feature", "length"))
        chain = [pair.first]
        while chain[-1] != pair.second and chain[-1] in onward:
            chain.append(onward[chain[-1]])
        if table is not None and chain[-1] == pair.second:
            found.append(Paths(tuple(chain), table))
    return tuple(found)


def _per_sae(run: RunFolder, names: list[str]) -> tuple[pl.DataFrame | None, pl.DataFrame, tuple[str, ...]]:
    """Candidates for cards, states summed over SAEs, and the judges' names, one SAE in memory at a time."""
    candidates, states, judges = [], [], set[str]()
    for sae in names:
        features = _table(run.interp(sae).features.path, FEATURES)
        utility = _table(run.ratings(sae).utility.path, UTILITY)
        judgements = _table(run.ratings(sae).judgements.path, JUDGEMENTS)
        # A feature chosen for several reasons has several rows in `utility`, all alike.
        for stage, table in (("interpretability of features", features), ("steering of features", utility)):
            if table is not None:
                once = table.unique([c for c in ("feature", "method") if c in table.columns], keep="first")
                states.append(_count(once.select(pl.lit(stage).alias("stage"), "state", _reason(once))))
        if judgements is not None:
            stage = pl.concat_str(pl.lit("judgements of "), "rubric").alias("stage")
            states.append(_count(judgements.select(stage, "state", _reason(judgements))))
        if features is not None and "judge" in features.columns:
            judges |= set(features["judge"].drop_nulls().to_list())
        outcomes = _table(run.steering(sae).outcomes.path, OUTCOMES)
        if outcomes is not None:
            stage = pl.concat_str(pl.lit("steering, "), "outcome").alias("stage")
            states.append(_count(outcomes.unique(["feature", "outcome"]).select(stage, "state", _reason(outcomes))))
        joined = _joined(sae, features, outcomes, utility)
        if joined is not None:
            candidates.append(joined)
    empty = pl.DataFrame(schema={"stage": pl.String, "state": pl.String, "reason": pl.String, "n": pl.UInt32})
    summed = pl.concat([empty, *states], how="vertical_relaxed").group_by("stage", "state", "reason").agg(pl.sum("n"))
    every = pl.concat(candidates, how="vertical_relaxed") if candidates else None
    return every, summed.sort("stage", "state", "reason", nulls_last=True), tuple(sorted(judges))


def _reason(table: pl.DataFrame) -> pl.Expr:
    return (pl.col("reason") if "reason" in table.columns else pl.lit(None, pl.String)).cast(pl.String).alias("reason")


def _count(table: pl.DataFrame) -> pl.DataFrame:
    return table.group_by("stage", "state", "reason").agg(pl.len().alias("n"))


def _joined(
    sae: str, features: pl.DataFrame | None, outcomes: pl.DataFrame | None, utility: pl.DataFrame | None
) -> pl.DataFrame | None:
    """Features that have a description, with their outcomes and ratings where they were steered."""
    if features is None:
        return None
    columns = [pl.col(c).cast(pl.Float64) for c in ("balanced_accuracy", "auroc")]
    known = features.filter(pl.col("state") == "ok").select(
        pl.lit(sae).alias("sae"), pl.col("feature").cast(pl.Int64), pl.col("description").cast(pl.String), *columns
    )
    seen = pl.DataFrame(schema={"feature": pl.Int64, "percentile": pl.Float64, "lift": pl.Float64})
    if outcomes is not None:
        seen = outcomes.filter(pl.col("outcome") == HEADLINE).select(list(seen.schema)).unique("feature", keep="first")
    known = known.join(seen, on="feature", how="left", maintain_order="left")
    if utility is None:
        return known.with_columns(pl.lit(None, pl.Float64).alias("test_score"))
    steered = utility.filter((pl.col("method") == SAE_FEATURE) & (pl.col("state") == "ok")).select(
        pl.col("feature").cast(pl.Int64), pl.col("test_score").cast(pl.Float64)
    )
    return known.join(steered.unique("feature", keep="first"), on="feature", how="left", maintain_order="left")
