"""The statistics of a finished grid, and the record of the whole run.

`stats/` holds what the report draws: saes, agreement, arms, features, spread and the like. `results.json` is all that
is a function of the study: every SAE, the headline numbers, the verdict, seeds, counts; the same study gives the same
bytes, however it was run and however often it was stopped. `summary.json` is that record with what is not: seconds,
versions, the machine.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saelab.activations.shards import ActivationShards
from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.judges.cache import ReplyCache
from saelab.selection.choose import top1_regret
from saelab.stats.agreement import agreement
from saelab.stats.features import feature_agreement
from saelab.stats.gains import LIKE, RELATIVE, THESE, selection_gain, steering_gains
from saelab.stats.means import mean_estimate
from saelab.steering.methods import UNSTEERED
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.store.provenance import machine, versions
from saelab.store.tables import read_table, write_table
from saelab.study.adopt import adopted_rows, asked_about, fallen, standing
from saelab.study.baselines import baselines
from saelab.study.collect import features_table, saes_table
from saelab.study.compare import compared
from saelab.study.names import CONTROLS, UNSELECTED, chosen_arms, predictors
from saelab.study.plan import cells_of
from saelab.study.questions import questions
from saelab.study.spec import StudyConfig, saes_of
from saelab.study.steering import gates_of, headline_of, steering_tables
from saelab.study.streams import streamed
from saelab.study.verdict import verdict
from saelab.text.pack import PackedText

AXES = ("architecture", "level", "lm")


def write_statistics(study: StudyConfig, run: RunFolder) -> list[Path]:
    """Write the tables of `stats/`; returns their paths."""
    tables, asked = {"saes": saes_table(study, run)}, asked_about(study, run)
    if any(model.saes for model in study.models):
        tables["compared"] = compared(study, run)
    if any(s.control for s in standing(study, run)):
        tables["baselines"] = baselines(study, run)
    if any(s.steer for s in asked):
        features, grid = features_table(study, run), tables["saes"].filter(pl.col("sae").is_in([s.name for s in asked]))
        tables |= {
            "steered": features,
            "agreement": _agreement(study, grid, features),
            "features": _features(study, features),
        } | steering_tables(study, run, features)
        tables["questions"] = questions(study, run, grid, features, tables["spread"])
        if study.rated:
            tables["selection"] = _selection(study, features)
    paths = []
    for name, table in tables.items():
        paths.append(run.stats.table(name).path)
        write_table(paths[-1], table)
    return paths


def _agreement(study: StudyConfig, saes: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """Interpretability against every outcome without selection, and against it and its gain after each selection.

    An outcome is an SAE's mean percentile and its gain a difference; a utility's gain is the ratio of the papers, or a
    difference where an SAE scores 0 without selection.
    """
    grid = saes.filter(pl.col("n_steered").is_not_null())
    # An axis where one LM has several; training seeds are repeats, not an axis.
    parts = grid.partition_by("lm")
    several = [a for a in ("site", "width", "steps") if a in grid.columns and any(p[a].n_unique() > 1 for p in parts)]
    axes = (*AXES, *several)
    settings: dict[str, Any] = {"axes": {a: a for a in axes}, "seed": study.seed, "draws": study.resamples}
    found = [agreement(grid, x="interpretability", y=outcome, **settings) for outcome in OUTCOMES]
    found.append(agreement(grid, x=OUTCOMES[0], y=OUTCOMES[1], **settings))
    scores = [(HEADLINE, "difference")]
    if study.rated:
        found.append(agreement(grid, x="interpretability", y="utility", **settings))
        scores.append(("utility", "gain"))
    for score, gain in scores:
        if UNSELECTED not in features.filter(pl.col(score).is_not_null())["arm"]:
            continue
        gains = steering_gains(features, score=score, baseline=UNSELECTED)
        if "undefined" in gains["state"]:  # an SAE whose base is 0 has no ratio, and is not dropped for it
            gain = "difference"
        for arm in chosen_arms(study):
            own = gains.filter(pl.col("arm") == arm)
            if own.is_empty():
                continue
            columns = {f"{score} after {arm}": "selected", f"gain in {score} by {arm}": gain}
            joined = grid.join(own.select("sae", **columns), on="sae", how="left", maintain_order="left")
            found += [agreement(joined, x="interpretability", y=y, **settings) for y in columns]
    return pl.concat(found)


def _selection(study: StudyConfig, features: pl.DataFrame) -> pl.DataFrame:
    """Score and relative gain of every arm and control, pooled over SAEs (`sae` = "all") and per SAE.

    over: the pooled score less that of texts without any steering, paired over SAEs, with its p after Holm.
    """
    asked: dict[str, Any] = {"cluster": "lm", "seed": study.seed, "draws": study.resamples}
    pooled = selection_gain(features, baseline=UNSELECTED, **asked)
    plain = selection_gain(features, baseline=UNSTEERED, **asked)
    over = plain.filter(
        (pl.col("statistic") == "difference") & (pl.col("against") == UNSTEERED) & (pl.col("scope") == LIKE)
    )
    counts = features.group_by("arm", maintain_order=True).agg(
        n=pl.col("utility").count(), coverage=pl.col("utility").count() / pl.len()
    )
    relative = pooled.filter((pl.col("statistic") == RELATIVE) & (pl.col("against") == UNSELECTED))
    scores = pooled.filter(pl.col("statistic") == "score")
    everything = (
        scores.select("arm", "low", "high", "state", score="value")
        .join(relative.select("arm", gain="value", gain_low="low", gain_high="high"), on="arm", how="left")
        .join(over.select("arm", over="value", over_low="low", over_high="high", over_p="p_holm"), on="arm", how="left")
        .join(counts, on="arm", how="left")
        .with_columns(sae=pl.lit("all"))
    )
    single = features.group_by("sae", "arm", maintain_order=True).agg(
        score=pl.col("utility").mean(), n=pl.col("utility").count(), coverage=pl.col("utility").count() / pl.len()
    )
    state = pl.when(pl.col("score").is_null()).then(pl.lit("missing")).otherwise(pl.lit("ok"))
    gains = steering_gains(features, baseline=UNSELECTED).select("sae", "arm", "gain")
    single = single.join(gains, on=["sae", "arm"], how="left").with_columns(state=state)
    return pl.concat([everything, single], how="diagonal").select(
        "sae", "arm", "score", "low", "high", "gain", "gain_low", "gain_high",
        "over", "over_low", "over_high", "over_p", "n", "coverage", "state",
    )  # fmt: skip


def _features(study: StudyConfig, features: pl.DataFrame) -> pl.DataFrame:
    """Does a feature's own score go with how well it steers? Over the randomly drawn features, within SAEs.

    The interval and p are of these SAEs (features drawn, permutation within SAEs), `like_` of SAEs or LMs like these.
    Beside the coefficients: what is lost by steering with the feature that a score ranks first (top-1 regret, mean over
    SAEs), and what is lost by steering with any. The control is a family of its own: it is not one of the claims.
    """
    outcomes = (*OUTCOMES, "utility") if study.rated else OUTCOMES
    return pl.concat([_predicted(study, features, outcome) for outcome in outcomes])


def _predicted(study: StudyConfig, features: pl.DataFrame, outcome: str) -> pl.DataFrame:
    drawn = features.filter(pl.col("arm") == UNSELECTED)
    scores = [m for m in predictors() if m.name in drawn.columns]
    drawn = drawn.with_columns(pl.col(m.name).abs() for m in scores if m.signed)
    families = [[m.name for m in scores], [name for name in CONTROLS if name in drawn.columns]]
    asked: dict[str, Any] = {"response": outcome, "cluster": "lm", "seed": study.seed}
    found = pl.concat(feature_agreement(drawn, predictors=f, **asked) for f in families if f)
    found = found.filter(pl.col("sae").is_null()).rename({"n": "n_saes"}).drop("sae")
    like = found.filter(pl.col("scope") == LIKE).select(
        "predictor", "statistic", like_low="low", like_high="high", like_p="p", like_method="interval_method"
    )
    pooled = found.filter(pl.col("scope") == THESE).drop("scope")
    pooled = pooled.join(like, on=["predictor", "statistic"], how="left", maintain_order="left")
    names = [p for f in families for p in f]
    sizes = {p: drawn.filter(pl.col(p).is_not_null() & pl.col(outcome).is_not_null()).height for p in names}
    regrets = pl.DataFrame([_regret(drawn, p, outcome, study.seed) for p in names], infer_schema_length=None)
    pooled = pooled.with_columns(n=pl.col("predictor").replace_strict(sizes, return_dtype=pl.Int64))
    return pooled.join(regrets, on="predictor", how="left", maintain_order="left")


def _regret(drawn: pl.DataFrame, predictor: str, outcome: str, seed: int) -> dict[str, Any]:
    """Top-1 regret of a predictor, mean over SAEs with its interval, and what choosing blindly would lose."""
    lost, blind = [], []
    for _, part in drawn.group_by("sae", maintain_order=True):
        pairs = part.select(pl.col(predictor, outcome).cast(pl.Float64)).drop_nulls().to_numpy()
        if (regret := top1_regret(pairs[:, 0], pairs[:, 1])) is not None:
            lost.append(regret)
            blind.append(float(pairs[:, 1].max() - pairs[:, 1].mean()))
    mean = mean_estimate(np.array(lost, dtype=float), name=f"regret/{outcome}/{predictor}", seed=seed)
    chance = float(np.mean(blind)) if mean.value is not None else None
    return {
        "predictor": predictor, "regret": mean.value, "regret_low": mean.low, "regret_high": mean.high,
        "regret_chance": chance,
    }  # fmt: skip


def write_summary(
    study: StudyConfig, run: RunFolder, ledger: Ledger, seconds: Mapping[str, float], threads: int
) -> dict[str, Any]:
    """Write `results.json` and `summary.json` of a finished run; returns the second.

    seconds: of this call, beside those of the stages (summed over the cells, wherever they ran); threads: of one cell.
    """
    record = results(study, run)
    run.results.write(record)
    spent: dict[str, float] = {}
    wanted = {(c.stage, c.name) for c in cells_of(study)}
    for row in ledger.rows():
        if (row.stage, row.name) in wanted and row.state == "done" and row.seconds is not None:
            spent[row.stage] = round(spent.get(row.stage, 0.0) + row.seconds, 2)
    own = {name: round(value, 2) for name, value in seconds.items()}
    remade = [{"stage": d.stage, "name": d.name, "file": d.file} for d in ledger.damages()]
    record |= {"remade": remade} if remade else {}
    record |= {"spend": paid} if (paid := _spend(study, run)) else {}
    record |= {"seconds": spent | own, "versions": versions(), "machine": machine() | {"threads": threads}}
    run.summary.write(record)
    return record


def _spend(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    """What a judge that is paid was asked and charged for over all calls; nothing where none was."""
    if not run.replies.exists():
        return {}
    with closing(ReplyCache(run.replies)) as cache:
        spent = cache.spend(price=study.judge.price)
    return {name: value for name, value in asdict(spent).items() if value is not None}


def _dtype(study: StudyConfig, run: RunFolder, model: str) -> str | None:
    """The number format that a model ran in, as its first SAE's fidelity recorded it."""
    first = next((s for s in standing(study, run) if s.model.key == model), None)
    return None if first is None else str(run.interp(first.name).fidelity.read()["lm_dtype"])


def results(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    """What a finished study says: nothing in it depends on when, where or in how many pieces it was run."""
    return (
        {
            "study": study.name,
            "saes": run.stats.table("saes").read().to_dicts(),
            "agreement": _rows(
                run, "agreement", pl.col("statistic").is_in(["psi", "Psi"]) | (pl.col("mode") == "overall")
            ),
            "instrument": gates_of(study, run),
            "steering_lift": headline_of(study, run),
            "verdict": verdict(study, run),
            "arms": _rows(run, "arms", pl.lit(True)),
            "spread": _rows(run, "spread", pl.lit(True)),
            "questions": _rows(run, "questions", pl.lit(True)),
            "selection": _rows(run, "selection", pl.col("sae") == "all"),
            "matching": _matching(study, run),
            "seeds": {"study": study.seed, "training": sorted({s.seed for s in saes_of(study) if s.adopted is None})},
            "judge": study.judge.name,
            "anchors": _anchors(run),
            "text": _texts(study, run),
            "lm": {m.key: {"reference": m.lm, "dtype": _dtype(study, run, m.key)} for m in study.models},
            "counts": _counts(study, run),
        }
        | (_of_adopted(study, run) if (any(m.saes for m in study.models)) else {})
        | _of_controls(study, run)
    )


def _of_adopted(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    return {"adopted": adopted_rows(study, run), "compared": _rows(run, "compared", pl.lit(True))}


def _of_controls(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    return {"baselines": _rows(run, "baselines", pl.lit(True))} if any(s.control for s in saes_of(study)) else {}


def _rows(run: RunFolder, table: str, keep: pl.Expr) -> list[dict[str, Any]]:
    path = run.stats.table(table).path
    return read_table(path).filter(keep).to_dicts() if path.exists() else []


def _matching(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    names = sorted(c.name for c in cells_of(study) if c.stage == "match")
    found = {name: run.matching(*name.split("--")).quality for name in names}
    gone = {s.name for s in fallen(study, run)}  # what they are matched with has no record
    return {name: quality.read() for name, quality in found.items() if quality.exists or not gone}


def _texts(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    """Per model: tokens harvested and held out, and the positions that were left out, counted (of a sample, where SAEs
    are trained from the stream).
    """
    found = {}
    for model in study.models:
        train, held_out = (PackedText.load(run.tokens(model.key) / part) for part in ("train", "held_out"))
        site = next(s.site for s in saes_of(study) if s.model == model)
        counts = ActivationShards(run.activations(model.key) / site).counts
        found[model.key] = {
            "source": study.text.corpus.source,
            "documents": len(train.documents),
            "train_tokens": train.tokens.numel(),
            "held_out_tokens": held_out.tokens.numel(),
        } | {k: v for k, v in vars(counts).items() if isinstance(v, int)}
        if streamed(study, model):  # what was counted is then the sample
            found[model.key]["trained_from"] = "stream"
    return found


def _anchors(run: RunFolder) -> dict[str, Any]:
    """Whether the judge stayed the same; nothing for one that is no model."""
    end = run.anchors("end")
    return end.read()["drift"] if end.exists else {}


def _counts(study: StudyConfig, run: RunFolder) -> dict[str, Any]:
    """Texts read by the instrument, texts written for ratings and judgements by state, over the whole run."""
    specs = [s for s in standing(study, run) if s.steer]
    if not specs:
        return {}
    read = sum(run.steering(s.name).readings.read(["feature"]).height for s in specs)
    if not study.rated:
        return {"texts": read}
    folders = [run.ratings(s.name) for s in specs]
    states = pl.concat([f.judgements.read(["state"]).select("state") for f in folders])
    states = states["state"].value_counts()
    written = sum(f.generations.read(["generation"]).height for f in folders)
    return {"texts": read, "generations": written, "judgements": dict(states.sort("state").iter_rows())}
