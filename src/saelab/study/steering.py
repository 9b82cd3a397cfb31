"""What a study's steering says, as tables: every arm by every outcome, less the random dictionary, and the spread.

- arms      a row per outcome and arm: percentile and lift (means over SAEs), the percentile less that of the features
            taken without selection (of these SAEs; `_like` of SAEs or LMs like these), the lift less that of a random
            dictionary's features; `difference_prompts` of features and prompts like these
- spread    a row per score: F over SAEs, the reliability of an SAE's mean and its standard error, inside LMs
- controls  a row per control of every site's gate; doses: the dose response of its classes and of the SAEs' features

Differences are tested on the percentile, which resolves more; the lift is what is shown. Only reads.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saelab.instrument.kept import states_asked
from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.stats.crossed import crossed_difference
from saelab.stats.estimate import Estimate
from saelab.stats.gains import LIKE, THESE, selection_gain
from saelab.stats.less import less_than
from saelab.stats.spread import spread_table
from saelab.steering.arms import RANDOM
from saelab.store.folders import InstrumentFolder
from saelab.store.layout import RunFolder
from saelab.study.adopt import asked_about, standing
from saelab.study.collect import dictionary_lifts, outcomes_of, prompt_tables, texts_of
from saelab.study.names import INTERPRETABILITY, UNSELECTED
from saelab.study.spec import SaeSpec, StudyConfig

Sites = dict[tuple[str, str], InstrumentFolder]
ByArm = dict[str, Float[np.ndarray, "_ _"]]  # [features, prompts]


def sites_of(study: StudyConfig, run: RunFolder) -> Sites:
    """The gates of a study, by language model and site."""
    steered = [s for s in standing(study, run) if s.steer]
    return {(s.model.key, s.site): run.instrument(s.model.key, s.site) for s in steered}


def steering_tables(study: StudyConfig, run: RunFolder, features: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The tables above by name. features: the study's table `steered`."""
    specs = [s for s in asked_about(study, run) if s.steer]
    read = {s.name: outcomes_of(run, s) for s in specs}
    blind = _state(study, run) == "failed"  # what cannot be seen is no gain
    crossed = _by_prompt(run, specs, read)
    rows = [
        row
        for outcome in OUTCOMES
        for row in _arms(study, run, outcome, features, read, crossed=crossed[outcome], blind=blind)
    ]
    drawn = {name: table.filter(pl.col("arm") == RANDOM) for name, table in read.items()}
    scores = {"interpretability": [_numbers(_scored(run, s), INTERPRETABILITY) for s in specs]}
    for outcome in OUTCOMES:
        own = [table.filter(pl.col("outcome") == outcome) for table in drawn.values()]
        for name, column in ((outcome, "percentile"), (f"{outcome}_lift", "lift")):
            scores[name] = [_numbers(t, column) for t in own]
    controls, doses = [], []
    for (lm, site), folder in sites_of(study, run).items():
        record = folder.gate.read()
        controls += [{"lm": lm, "site": site} | c for c in record["controls"]]
        doses += [{"lm": lm, "site": site} | d for d in record["dose_response"]]
    return {
        "arms": pl.DataFrame(rows, infer_schema_length=None),
        "spread": spread_table(
            scores, [s.model.key for s in specs], {c: [by[RANDOM] for by in tables] for c, tables in crossed.items()}
        ),
        "controls": pl.DataFrame(controls, schema=CONTROLS),
        "doses": pl.DataFrame(doses, schema=DOSES),
    }


CONTROLS: dict[str, Any] = {
    "lm": pl.String, "site": pl.String, "name": pl.String, "outcome": pl.String, "value": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_missing": pl.Int64, "p": pl.Float64, "bound": pl.Float64,
    "holds": pl.Boolean, "state": pl.String,
}  # fmt: skip
DOSES: dict[str, Any] = {
    "lm": pl.String, "site": pl.String, "set": pl.String, "dose": pl.Float64, "outcome": pl.String, "lift": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_missing": pl.Int64, "strength": pl.Float64,
    "share": pl.Float64, "nll": pl.Float64, "distinct": pl.Float64,
}  # fmt: skip


def gates_of(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    """Whether every site's gate passed, each site's record, and each control with its interval."""
    sites = [
        {"lm": lm, "site": site}
        | {k: record[k] for k in ("state", "passed", "sentence", "dose", "reader")}
        | {"chosen": record["chosen"], "held": record.get("held"), "answers": _answers(study, run, lm, site)}
        for (lm, site), folder in sites_of(study, run).items()
        for record in [folder.gate.read()]
    ]
    state = _state(study, run)
    table = run.stats.table("controls")
    controls = table.read().to_dicts() if table.exists else []
    return {"passed": state == "passed", "state": state, "sites": sites, "controls": controls}


def _state(study: StudyConfig, run: RunFolder) -> str:
    """Of all sites: failed where one failed, passed where every one passed."""
    states = {folder.gate.read()["state"] for folder in sites_of(study, run).values()}
    return "failed" if "failed" in states else "not_gated" if states != {"passed"} else "passed"


def _answers(study: StudyConfig, run: RunFolder, lm: str, site: str) -> dict[str, int]:
    """How many answers of the reader were of which state at a site, those on its SAEs included."""
    saes = [s for s in standing(study, run) if s.steer and (s.model.key, s.site) == (lm, site)]
    folders = [run.instrument(lm, site), *(run.steering(s.name) for s in saes)]
    return dict(sum((Counter(states_asked(folder)) for folder in folders), Counter[str]()))


def headline_of(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    """The lift of the SAEs' features less that of their random dictionaries', by the headline outcome.

    low, high, p: of these SAEs, of which features were drawn. like_*: of SAEs like these, with SAEs as units. No value
    where a gate failed: what cannot be seen is no gain.
    """
    table = run.stats.table("arms")
    nothing = {"value": None, "low": None, "high": None, "p": None}
    if not table.exists:
        return nothing | {"state": "not_steered"}
    if _state(study, run) == "failed":
        return nothing | {"state": "gate_failed"}
    row = table.read().filter((pl.col("outcome") == HEADLINE) & (pl.col("arm") == UNSELECTED)).row(0, named=True)
    return {end: row[f"less{mark}"] for end, mark in (("value", ""), ("low", "_low"), ("high", "_high"))} | {
        "p": row["less_p"], "state": row["less_state"], "method": row["less_method"],
        "like_low": row["less_like_low"], "like_high": row["less_like_high"], "like_p": row["less_like_p"],
    }  # fmt: skip


def _arms(
    study: StudyConfig,
    run: RunFolder,
    outcome: str,
    features: pl.DataFrame,
    read: dict[str, pl.DataFrame],
    *,
    crossed: list[ByArm],
    blind: bool,
) -> list[dict[str, Any]]:
    own = features.filter(pl.col(outcome).is_not_null() & pl.col(f"{outcome}_lift").is_not_null())
    names = [UNSELECTED, *(c for c in own["arm"].unique(maintain_order=True) if c != UNSELECTED)]
    asked: dict[str, Any] = {"baseline": UNSELECTED, "cluster": "lm", "seed": study.seed}
    found: dict[str, pl.DataFrame] = {}
    if UNSELECTED in own["arm"]:
        found = {c: selection_gain(own, score=c, draws=study.resamples, **asked) for c in (outcome, f"{outcome}_lift")}
    own_dictionary, beside = _dictionaries(study, run, outcome)
    lms = [s.model.key for s in asked_about(study, run) if s.steer]
    rows = []
    for name in names:
        mine = own.filter(pl.col("arm") == name)
        row: dict[str, Any] = {"outcome": outcome, "arm": name, "n": mine.height, "n_saes": mine["sae"].n_unique()}
        for column, label in ((outcome, "percentile"), (f"{outcome}_lift", "lift")):
            row |= _taken(found.get(column), "score", name, None, label)
        these, alike = (_differences(found.get(outcome), scope) for scope in (THESE, LIKE))
        row |= _taken(these, "difference", name, UNSELECTED, "difference", p=True)
        row |= _taken(alike, "difference", name, UNSELECTED, "difference_like", p=True)
        del row["difference_like"]  # the value is the same
        arm = RANDOM if name == UNSELECTED else name
        row |= _over_prompts(crossed, arm)
        chosen = (pl.col("arm") == arm) & (pl.col("outcome") == outcome)
        lifts = [_numbers(table.filter(chosen), "lift") for table in read.values()]
        less = less_than(lifts, own_dictionary, beside)
        like = less_than(lifts, own_dictionary, beside, units="saes", clusters=lms)
        if blind:
            less = like = Estimate(statistic="difference", state="missing", n=less.n)
        row |= {"less": less.value, "less_low": less.low, "less_high": less.high, "less_p": less.p}
        row |= {"less_like_low": like.low, "less_like_high": like.high, "less_like_p": like.p}
        row |= {"less_n": less.n, "less_method": less.interval_method}
        row |= {"less_state": "gate_failed" if blind else less.state}
        rows.append(row | {"less_note": less.note})
    return rows


def _by_prompt(run: RunFolder, specs: list[SaeSpec], read: dict[str, pl.DataFrame]) -> dict[str, list[ByArm]]:
    """Every outcome and its lift: of each SAE by arm its texts as [features, prompts]. read: its features' outcomes."""
    found: dict[str, list[ByArm]] = {column: [] for o in OUTCOMES for column in (o, f"{o}_lift")}
    for spec in specs:
        texts = texts_of(run, spec)
        arms = read[spec.name].group_by("arm", maintain_order=True)
        own = dict(arms.agg(pl.col("feature").unique(maintain_order=True)).iter_rows())
        for column, tables in found.items():
            tables.append(prompt_tables(texts, own | {RANDOM: own.get(RANDOM, [])}, column))
    return found


def _over_prompts(crossed: list[ByArm], arm: str) -> dict[str, Any]:
    """The percentile of an arm less that of features taken without selection, of features and prompts like these."""
    names = ("difference_prompts_low", "difference_prompts_high", "difference_prompts_note")
    if arm == RANDOM:
        return dict.fromkeys(names)
    found = crossed_difference([(by[arm], by[RANDOM]) for by in crossed if arm in by])
    return dict(zip(names, (found.low, found.high, found.note or found.interval_method), strict=True))


def _differences(table: pl.DataFrame | None, scope: str) -> pl.DataFrame | None:
    return None if table is None else table.filter(pl.col("scope") == scope)


def _taken(
    table: pl.DataFrame | None, statistic: str, name: str, against: str | None, label: str, *, p: bool = False
) -> dict[str, Any]:
    """An estimate of `selection_gain` under another name; nulls where there is none."""
    ends = {"value": label, "low": f"{label}_low", "high": f"{label}_high"} | ({"p_holm": f"{label}_p"} if p else {})
    wanted = (pl.col("statistic") == statistic) & (pl.col("arm") == name)
    rows = pl.DataFrame() if table is None else table.filter(wanted & pl.col("against").eq_missing(pl.lit(against)))
    return {ends[e]: rows[e][0] if rows.height else None for e in ends}


def _dictionaries(
    study: StudyConfig, run: RunFolder, outcome: str
) -> tuple[list[Hashable], dict[Hashable, Float[np.ndarray, "_"]]]:
    """Of every steered SAE the name of its random dictionary, and by name the lifts of its features."""
    specs = [s for s in asked_about(study, run) if s.steer]
    own: list[Hashable] = [(s.model.key, s.site, s.d_sae, s.known_level) for s in specs]
    some = dict(zip(own, specs, strict=True))
    return own, {name: dictionary_lifts(run, spec, "lift")[outcome] for name, spec in some.items()}


def _scored(run: RunFolder, spec: SaeSpec) -> pl.DataFrame:
    return run.interp(spec.name).features.read([INTERPRETABILITY]).filter(pl.col("state") == "ok")


def _numbers(table: pl.DataFrame, column: str) -> np.ndarray:
    return table[column].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(float)
