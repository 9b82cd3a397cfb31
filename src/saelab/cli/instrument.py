"""`saelab instrument`: whether steering can be seen at a site of a model, before anything is said about features."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl

from saelab.cli.output import say, show_record, show_table
from saelab.cli.parameters import SEVERAL
from saelab.cli.progress import shown
from saelab.cli.references import text_at
from saelab.core.errors import UserError

if TYPE_CHECKING:
    from saelab.instrument.gate import Gate

NOT_PASSED = 8  # the exit code of a gate that failed, or was not tested


def instrument(
    *,
    lm: str,
    site: str,
    sae: str | None = None,
    classes: Annotated[list[Path] | None, SEVERAL] = None,
    label: str | None = None,
    text: str | None = None,
    template: str | None = None,
    doses: Annotated[list[float] | None, SEVERAL] = None,
    reader: str = "embedding",
    readers_asked: int = 7,
    features: int = 64,
    width: int = 2048,
    l0: int = 32,
    contexts: int = 640,
    dtype: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Steer by known classes and by a random dictionary, and say whether the outcomes tell them apart.

    Exits with 8 where the gate does not pass. With --out, a killed run goes on where it stopped.

    Parameters
    ----------
    lm:
        Language model: short name or reference.
    site:
        Where to steer, such as resid_post.15.
    sae:
        Reference or folder of an SAE of this site, to be held against a random dictionary of its width and L0.
    classes:
        The known classes: files of texts, one per class (at least five), or one table with --label; by default six
        sets of the embedded corpus.
    label:
        Column of labels in the one table of --classes.
    text:
        Text that features are read from (path: or hf: reference); by default the embedded corpus.
    template:
        How a model without a chat template is asked: a text that holds {instruction}.
    doses:
        Grid of doses, in nats of KL per token.
    reader:
        What is asked whether a text is about a feature: embedding (of sentences), lexical, local:LM or openai:MODEL.
    readers_asked:
        Wrong features that a language model is asked of a text, beside its own.
    features:
        Features of the random dictionary, and of the SAE.
    width:
        Width of the random dictionary where there is no SAE.
    l0:
        L0 of the random dictionary where there is no SAE.
    contexts:
        Contexts of 128 tokens that features are read from.
    dtype:
        Type in which the model runs; auto: bfloat16 where the machine multiplies it.
    seed:
        The root of all randomness.
    out:
        Folder for texts, tables and instrument.json.
    json:
        Print one JSON object.
    """
    from saelab.instrument.classes import classes_in
    from saelab.instrument.config import GateConfig
    from saelab.instrument.run import run
    from saelab.lm.model import LanguageModel
    from saelab.saes.formats import load_sae
    from saelab.text.corpora import CorpusConfig

    if label is not None and classes is None:
        raise UserError("--label is a column of the table that --classes names.", hint="Give --classes TABLE.")
    asked = {"n_features": features, "width": width, "l0": l0, "contexts": contexts, "seed": seed}
    asked |= {"reader": reader, "readers_asked": readers_asked}
    config = GateConfig.parse(asked | ({"doses": doses} if doses else {}), origin="the command line")
    known = None if classes is None else classes_in(classes, label=label, taken=config.class_texts)
    opened = None if sae is None else load_sae(sae)
    with shown() as progress, tempfile.TemporaryDirectory() as scratch:
        model = LanguageModel.load(lm, dtype=dtype, plain=template)
        found = run(
            config,
            model,
            site,
            out or Path(scratch),
            classes=known,
            sae=opened,
            corpus=CorpusConfig(source=text_at(text) or "") if text else None,
            progress=progress,
        )
    if json:
        show_record({"lm": lm, "site": site, "reader": reader, **found.record()}, as_json=True)
    else:
        _show(found)
        say(f"`described` was read by {reader}.")
    return 0 if found.passed else NOT_PASSED


def _show(found: "Gate") -> None:
    if found.lifts:
        rows = [
            {
                "steered with": lift.name.replace("_", " "),
                "outcome": lift.outcome,
                "lift": _with_interval(lift.value, lift.low, lift.high),
                "n": lift.n,
                "p": lift.p,
                "bound": lift.bound,
                "holds": {True: "yes", False: "NO", None: "no bound"}[lift.holds],
            }
            for lift in found.lifts
        ]
        kinds = {"p": pl.Float64, "bound": pl.Float64}
        show_table(pl.DataFrame(rows, schema_overrides=kinds), as_json=False, title=f"At {found.dose:g} nats a token")
    if found.doses.height:
        shown = [
            {
                "dose": row["dose"],
                "outcome": row["outcome"],
                "lift": _with_interval(row["lift"], row["low"], row["high"]),
                "share of norm": row["share"],
                "nll": row["nll"],
                "distinct": row["distinct"],
            }
            for row in found.doses.iter_rows(named=True)
        ]
        show_table(pl.DataFrame(shown), as_json=False, title="Known classes by dose, on dev")
    say(found.sentence)


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "missing"
    return f"{value:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")
