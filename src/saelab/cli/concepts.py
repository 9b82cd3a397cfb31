"""`saelab concepts`: AxBench's two tasks on AxBench's files. Directions detect written concepts and steer with them."""

from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter

from saelab.cli.models import model_for
from saelab.cli.output import say, show_record, show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError

# Not in the docstring, where "Methods" would head a section.
METHODS = "Directions, separated by commas; by default all that need no more than what is given."


def concepts(
    files: Path,
    *,
    out: Path,
    lm: str | None = None,
    site: str | None = None,
    sae: str | None = None,
    features: Path | None = None,
    methods: Annotated[str | None, Parameter(help=METHODS)] = None,
    n: int | None = None,
    judge: str | None = None,
    instructions: Path | None = None,
    factors: str = "0.8,1.6,3.2",
    dev: int = 2,
    test: int = 5,
    new: int = 32,
    temperature: float = 0.0,
    n_train: int = 24,
    n_detect: int = 16,
    fit_texts: int = 4,
    fit_batch: int = 2,
    max_tokens: int = 80,
    seed: int = 0,
    axbench: bool = False,
    json: bool = False,
) -> int:
    """Fit every direction on each concept's texts, detect with it, steer with it, and compare methods over concepts.

    The sizes are for two cores; AxBench's own stand in brackets. The same command goes on where it was interrupted.

    Parameters
    ----------
    files:
        Folder of AxBench's data, one setting (metadata.jsonl, train_data*.parquet, latent_eval_data*.parquet).
    out:
        Folder for the results.
    lm:
        Language model: short name or reference; by default the one that the SAE names, without one smollm2-135m.
    site:
        Where directions are read and act; by default the SAE's own.
    sae:
        Reference or folder of an SAE of that site: its features detect and steer too.
    features:
        The SAE's features.parquet (interp stage), for the feature by label.
    n:
        The first concepts only; by default all.
    judge:
        Such as local:LM or openai:MODEL; by default the embedded lexical one.
    instructions:
        A file of instructions; by default the forty that are shipped.
    factors:
        Multiples of the largest training score.
    dev:
        Instructions that choose the factor [5].
    test:
        Other instructions, for the score at that factor [5].
    new:
        Longest answer, in tokens [128].
    temperature:
        Sampling temperature; 0 is greedy [1].
    n_train:
        Training texts of each kind [72].
    n_detect:
        Detection texts of each kind [36].
    fit_texts:
        Texts of each kind that SSV and ReFT-r1 see [72].
    fit_batch:
        Texts per step of SSV and ReFT-r1 [6].
    max_tokens:
        Longest text read, template included.
    seed:
        Names every draw.
    axbench:
        Also write AxBench's wide steering_data.parquet, with the unsteered model's perplexity of every text.
    json:
        Print JSON.
    """
    import saelab
    from saelab.judges.catalogue import JudgeConfig
    from saelab.steering.concepts.axbench import AxBench
    from saelab.steering.concepts.config import ConceptsConfig
    from saelab.steering.concepts.directions.catalogue import usable
    from saelab.store.tables import read_table
    from saelab.study.concepts import detection_means, run_concepts, steering_means, write_wide
    from saelab.text.instructions import load_instructions

    data = AxBench(files)
    _ = data.concepts  # a wrong folder is told before a model is loaded
    table = None if features is None else read_table(features, ["feature", "max_activation", "terms"])
    opened = None if sae is None else saelab.load_sae(sae)
    place = site or (None if opened is None else opened.cfg.site)
    if place is None:
        raise UserError("Directions need a site.", hint="Give --site resid_post.15, or an --sae that says its own.")
    steering = {
        "factors": _numbers(factors), "n_dev": dev, "n_test": test, "max_new_tokens": new, "temperature": temperature,
        "chunk": 128, "seed": seed,
    }  # fmt: skip
    chosen = methods.split(",") if methods else usable(sae=opened is not None, features=table is not None)
    settings = {
        "site": place, "methods": chosen, "max_tokens": max_tokens, "n_train": n_train, "n_detect": n_detect,
        "fit_texts": fit_texts, "fit_batch": fit_batch, "steering": steering,
    }  # fmt: skip
    config = ConceptsConfig.parse(settings, origin="the command line")
    who, asked = (
        JudgeConfig() if judge is None else JudgeConfig.parse(judge, origin="--judge"),
        load_instructions(instructions),
    )
    model = model_for([], lm or "smollm2-135m") if opened is None else model_for([opened], lm)
    with shown() as progress:
        folder = run_concepts(
            config, data, out, model, asked, judge=who, sae=opened, features=table, concepts=n, progress=progress
        )
        if axbench:
            write_wide(folder, data, model)
    detected, steered = detection_means(folder), steering_means(folder)
    if json:
        show_record({"detection": detected.to_dicts(), "steering": steered.to_dicts(), "out": str(out)}, as_json=True)
        return 0
    show_table(_narrow(detected), as_json=False, title="Detection: means over concepts, 95 % intervals")
    show_table(_narrow(steered), as_json=False, title=f"Steering under {who.name}: means over concepts, 95 % intervals")
    say(f"Written: {out}")
    return 0


def _narrow(table: pl.DataFrame) -> pl.DataFrame:
    """The table with each mean and its interval in one cell."""
    for name in [c.removesuffix("_low") for c in table.columns if c.endswith("_low")]:
        cells = [_cell(*row) for row in table.select(name, f"{name}_low", f"{name}_high").iter_rows()]
        table = table.with_columns(pl.Series(name, cells)).drop(f"{name}_low", f"{name}_high")
    return table.with_columns(pl.selectors.float().round(2))


def _cell(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--factors takes numbers separated by commas, not {text!r}.") from None
