"""Which scores tell an SAE from what was not trained: each SAE less the one of the same place that is its control.

Controls are SAEs of a grid with something frozen (arXiv 2602.14111) and SAEs of a language model whose weights are
shuffled (arXiv 2501.17727). A row per control and score: mean of the SAEs that have that control, mean of the controls,
and the mean difference of the pairs. Scores of features differ by Welch's t over features (`less_than`), others by the
t interval over pairs, of at least three. Only reads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy

from saelab.instrument.readers import OUTCOMES
from saelab.interp.suite.catalogue import headlines
from saelab.stats.estimate import FEWEST, Estimate
from saelab.stats.less import less_than
from saelab.steering.arms import RANDOM
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.adopt import standing
from saelab.study.collect import outcomes_of
from saelab.study.names import INTERPRETABILITY
from saelab.study.repeats import stability_of
from saelab.study.spec import SaeSpec, StudyConfig
from saelab.study.steering import gates_of

OF_SAES = ("fvu", "ce_recovered", "dead_share")
OF_FEATURES = {"interpretability": INTERPRETABILITY, "embedding_auroc": "embedding_auroc"}
COLUMNS: dict[str, Any] = {
    "control": pl.String, "score": pl.String, "saes": pl.Int64, "trained": pl.Float64, "untrained": pl.Float64,
    "difference": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64, "n": pl.Int64,
    "told": pl.Boolean, "state": pl.String, "method": pl.String,
}  # fmt: skip
Pair = tuple[SaeSpec, SaeSpec]  # an SAE and its control
Values = np.ndarray


def baselines(study: StudyConfig, run: RunFolder) -> pl.DataFrame:
    """The table of the head (columns `COLUMNS`). told: whether the interval excludes 0, null where there is none."""
    pairs = pairs_of(standing(study, run))
    seen = any(s.steer for pair in pairs for s in pair) and gates_of(study, run)["state"] == "passed"
    rows = []
    for control in dict.fromkeys(c.control for _, c in pairs):
        own = [pair for pair in pairs if pair[1].control == control]
        about = {"control": control, "saes": len(own)}
        for score, values in _of_saes(run, own):
            rows.append(about | {"score": score} | _row(values, _paired(*values)))
        for score, read in _of_features(study, run, own, seen=seen):
            groups = [[read(pair[side]) for pair in own] for side in (0, 1)]
            if any(np.isfinite(v).any() for side in groups for v in side):
                rows.append(about | {"score": score} | _row(groups, _over_features(*groups)))
    return pl.DataFrame(rows, schema=COLUMNS)


def pairs_of(saes: Sequence[SaeSpec]) -> list[Pair]:
    """Every control with the SAE that differs from it in nothing else."""
    own = {_place(s): s for s in saes if s.control is None}
    return [(own[_place(s)], s) for s in saes if s.control is not None and _alone(s) and _place(s) in own]


def _place(sae: SaeSpec) -> tuple[Any, ...]:
    return (sae.model.lm, sae.site, sae.reads, sae.architecture, sae.level, sae.d_sae, sae.seed, sae.steps, sae.start,
            str(sae.options), None if sae.adopted is None else sae.name)  # fmt: skip


def _alone(sae: SaeSpec) -> bool:
    """Whether it is a control by one thing, not by its language model and a frozen part at once."""
    return sae.model.control is None or sae.freeze == "none"


def _of_saes(run: RunFolder, pairs: Sequence[Pair]) -> Iterable[tuple[str, tuple[Values, Values]]]:
    """Scores that an SAE has one of: of its fidelity, and the quoted figures of its suite."""
    for score in OF_SAES:
        yield score, _both(pairs, lambda s, score=score: run.interp(s.name).fidelity.read()[score])
    known = {s.name: _suite(run, s) for pair in pairs for s in pair}
    for kind, headline in headlines():
        key = (kind, headline.metric)
        if any(key in found for found in known.values()):
            yield f"suite: {headline.title}", _both(pairs, lambda s, key=key: known[s.name].get(key))


def _both(pairs: Sequence[Pair], read: Callable[[SaeSpec], float | None]) -> tuple[Values, Values]:
    sides = ([read(pair[side]) for pair in pairs] for side in (0, 1))
    first, second = (np.array([np.nan if v is None else v for v in side], dtype=float) for side in sides)
    return first, second


def _suite(run: RunFolder, sae: SaeSpec) -> Mapping[tuple[str, str], float | None]:
    path = run.interp(sae.name).evaluations.path
    columns = ["kind", "metric", "value"]
    rows = read_table(path, columns).select(columns).iter_rows() if path.exists() else ()
    return {(kind, metric): value for kind, metric, value in rows}


def _of_features(
    study: StudyConfig, run: RunFolder, pairs: Sequence[Pair], *, seen: bool
) -> Iterable[tuple[str, Callable[[SaeSpec], Values]]]:
    """Scores of features. Lifts are there where SAE and control are steered with and steering can be seen, stability
    where SAE and control were trained with several seeds.
    """

    def tested(sae: SaeSpec, column: str) -> Values:
        table = run.interp(sae.name).features.read(["state", column])
        return _numbers(table.filter(pl.col("state") == "ok"), column)

    def lifts(sae: SaeSpec, outcome: str) -> Values:
        drawn = outcomes_of(run, sae).filter((pl.col("arm") == RANDOM) & (pl.col("outcome") == outcome))
        return _numbers(drawn, "lift")

    def found_again(sae: SaeSpec) -> Values:
        found = stability_of(study, run, sae)
        return np.array([]) if found is None else _numbers(found[0], "stability")

    for score, column in OF_FEATURES.items():
        yield score, lambda s, column=column: tested(s, column)
    yield "stability", found_again
    for outcome in OUTCOMES if seen and all(s.steer for pair in pairs for s in pair) else ():
        yield f"{outcome}_lift", lambda s, outcome=outcome: lifts(s, outcome)


def _over_features(trained: Sequence[Values], untrained: Sequence[Values]) -> Estimate:
    return less_than(trained, list(range(len(trained))), dict(enumerate(untrained)))


def _paired(trained: Values, untrained: Values) -> Estimate:
    """Mean of the differences of pairs with its t interval."""
    apart = trained - untrained
    apart = apart[np.isfinite(apart)]
    start = Estimate(statistic="difference", state="too_few", n=apart.size, dropped=trained.size - apart.size)
    if apart.size < FEWEST:
        return start
    value, se = float(apart.mean()), float(apart.std(ddof=1)) / apart.size**0.5
    ends: dict[str, Any] = {}
    if se > 0:
        reach = float(scipy.stats.t.ppf(0.975, apart.size - 1)) * se
        p = 2 * float(scipy.stats.t.sf(abs(value) / se, apart.size - 1))
        ends = {"low": value - reach, "high": value + reach, "p": p, "interval_method": "t over pairs of SAEs"}
    return Estimate(statistic="difference", value=value, n=apart.size, dropped=start.dropped, **ends)


def _row(sides: Sequence[Any], found: Estimate) -> dict[str, Any]:
    trained, untrained = (_mean([float(np.nanmean(v)) for v in side if np.isfinite(v).any()]) for side in sides)
    told = None if found.low is None or found.high is None else found.low > 0 or found.high < 0
    return {
        "trained": trained, "untrained": untrained, "difference": found.value, "low": found.low, "high": found.high,
        "p": found.p, "n": found.n, "told": told,
        "state": found.state, "method": found.interval_method,
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _numbers(table: pl.DataFrame, column: str) -> Values:
    return table[column].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(float)
