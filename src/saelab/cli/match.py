"""`saelab match`: the features of SAEs matched from one to the next, with the proof of optimality."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from saelab.cli.models import model_for
from saelab.cli.output import note, say, show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError
from saelab.store.layout import MatchingFolder
from saelab.store.tables import write_table

if TYPE_CHECKING:
    from saelab.core.progress import Progress
    from saelab.matching.match import Matching
    from saelab.saes.base import Sae
    from saelab.saes.directions import Directions

Fold = Literal["theta", "mean", "rms", "quantile", "max", "none"]
CONTEXT = 128  # tokens
ROUNDING = 1e-9  # of the cost: a gap below that is none


def match(
    first: str,
    second: str,
    *more: str,
    fold: Fold | None = None,
    parts: Literal["all", "decoder", "encoder"] | None = None,
    reject: str | None = None,
    direct: bool = False,
    lm: str | None = None,
    contexts: int = 32,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Match features pairwise along a path of SAEs; with three or more, also end to end by composition.

    Parameters
    ----------
    first:
        Reference or folder of an SAE. REFERENCE#site names one site that a crosscoder, a cross-layer transcoder or a
        transcoder writes; its decoder rows are matched (--parts decoder --fold none).
    second:
        The next SAE.
    more:
        Further SAEs of the path.
    fold:
        Scale of each feature: theta (thresholds), none (cosine), or the mean, rms, 0.9 quantile or maximum of its
        active codes, which needs --lm. By default theta; where an SAE has no thresholds, mean with --lm and none
        without it.
    parts:
        Tensors compared: all, decoder, encoder. By default all; with --fold none the decoder, since raw biases would
        rule the rest.
    reject:
        Reject cost of a partial matching: a number, or null for the level at which 1 % of features would match an
        unrelated dictionary.
    direct:
        Also match the first SAE directly with each later one, beside the composition of the steps.
    lm:
        Language model on whose activations folds are measured and matchings evaluated, on the embedded corpus; the SAEs
        must say their sites.
    contexts:
        Contexts of 128 tokens that are read with --lm.
    out:
        Without --lm: Parquet file for the pairs (step, a, b, cost, cosine). With it (and then needed): folder, one
        subfolder per step with matching.parquet and quality.json.
    json:
        Print JSON.
    """
    from saelab.cli.references import opened
    from saelab.saes.base import Sae

    found = [opened(r)[0] for r in (first, second, *more)]
    references = _names((first, second, *more))
    saes = [s for s in found if isinstance(s, Sae)]
    fold = fold or _fold_for(found, lm)
    parts = parts or ("decoder" if fold == "none" else "all")
    if lm is not None:
        if len(saes) < len(found):
            raise UserError("Decoder rows alone cannot be put to work on a model.", hint="Match them without --lm.")
        return _evaluated(references, saes, _settings(fold, parts, reject, contexts), lm, _folder(out), json)
    if fold not in ("theta", "none"):
        raise UserError(f"--fold {fold} is measured on activations.", hint="Name the language model with --lm.")
    limit = None if reject is None else _limit(reject)
    with shown() as progress:
        rows, pairs = _steps(references, found, {"fold": fold, "parts": parts, "reject": limit}, direct, progress)
    if out is not None:
        write_table(out, pairs)
    show_table(rows, as_json=json)
    return 0


def _fold_for(found: "Sequence[Any]", lm: str | None) -> Fold:
    """What scales there are: thresholds, or what is measured on a model, or none; it is said where theta cannot be."""
    from saelab.matching.fold import has_thresholds
    from saelab.saes.base import Sae

    if all(isinstance(one, Sae) and has_thresholds(one) for one in found):
        return "theta"
    fold: Fold = "none" if lm is None else "mean"
    how = "directions alone" if lm is None else "the mean of their codes"
    note(f"Not every one of these has thresholds, so features are compared by {how} (--fold {fold}).")
    return fold


def _steps(
    references: Sequence[str],
    saes: "Sequence[Sae | Directions]",
    settings: dict[str, Any],
    direct: bool,
    progress: "Progress",
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The summary and the pairs of every step, of the composition, and of the direct matchings."""
    import saelab
    from saelab.matching.match import compose

    rows: list[dict[str, Any]] = []
    pairs: list[pl.DataFrame] = []
    path = None
    for step, (a, b) in enumerate(pairwise(saes)):
        found = saelab.match(a, b, **settings, progress=progress)
        rows.append(_row(references[step], references[step + 1], found))
        pairs.append(_pairs(found, step, (a, b)))
        path = found.permutation if path is None else compose(path, found.permutation)
        if step == 0:
            continue
        whole = {"from": references[0], "to": references[step + 1], "matched": int((path >= 0).sum())}
        if direct:
            straight = saelab.match(saes[0], b, **settings, progress=progress)
            both = (path >= 0) & (straight.permutation >= 0)
            rows.append(_row(references[0], references[step + 1], straight) | {"method": "direct"})
            whole["same as direct"] = float((path == straight.permutation)[both].mean()) if both.any() else None
        if direct or step == len(saes) - 2:
            rows.append(dict.fromkeys(rows[0]) | whole | {"method": "composed"})
    if not direct:
        rows = [{k: v for k, v in row.items() if k != "same as direct"} for row in rows]
    return pl.DataFrame(rows, infer_schema_length=None), pl.concat(pairs)


def shown_gap(gap: float, cost: float) -> float:
    """The gap of a matching, zero where it is rounding of its cost."""
    return gap if abs(gap) >= ROUNDING * abs(cost) else 0.0


def _row(first: str, second: str, found: "Matching") -> dict[str, Any]:
    matched = found.permutation >= 0
    return {
        "from": first,
        "to": second,
        "matched": int(matched.sum()),
        "cost": found.cost,
        "gap": shown_gap(found.gap, found.cost),
        "median cosine": float(np.median(found.cosine[matched])) if matched.any() else None,
        "same as direct": None,
        "method": found.method,
    }


def _pairs(found: "Matching", step: int, saes: "tuple[Sae | Directions, Sae | Directions]") -> pl.DataFrame:
    """One row per feature of the first; numbers of latents where rows are those of one site among several."""
    first, second = (np.asarray(getattr(s, "latents", np.arange(len(s.W_dec)))) for s in saes)
    matched = found.permutation >= 0
    partner = np.where(matched, second[np.where(matched, found.permutation, 0)], -1)
    pairs = pl.DataFrame({"a": first, "b": partner, "cost": found.pair_cost, "cosine": found.cosine})
    return pairs.with_columns(step=pl.lit(step)).fill_nan(None)


def _names(references: Sequence[str]) -> list[str]:
    """What the tables call the SAEs: the last part of each reference where that tells them apart."""
    short = [r.rstrip("/").rpartition("/")[2] for r in references]
    return short if len(set(short)) == len(set(references)) else list(references)


def _settings(fold: Fold, parts: str, reject: str | None, contexts: int) -> dict[str, Any]:
    limit = None if reject is None else _limit(reject)
    return {"fold": fold, "parts": parts, "reject": limit, "contexts": contexts, "quantiles": (0.1, 0.5, 0.7, 1.0)}


def _evaluated(
    references: Sequence[str], saes: "Sequence[Sae]", settings: dict[str, Any], lm: str, out: Path, as_json: bool
) -> int:
    """Every step (and, of three or more SAEs, end to end) matched and put to work on a language model."""
    from saelab.matching import run as stage
    from saelab.matching.fold import features_of
    from saelab.text.corpora import CorpusConfig, iter_documents
    from saelab.text.pack import pack_for

    sites = [str(site) for s in saes if (site := s.cfg.site)]
    if len(sites) != len(saes):
        hint = "Name it, as in FOLDER#resid_post.12, or match without --lm."
        raise UserError("With --lm every SAE must say its site.", hint=hint)
    if settings["fold"] == "theta":
        for sae in saes:
            features_of(sae, "theta")  # an SAE without thresholds is told before the model is loaded
    config = stage.MatchConfig.parse(settings, origin="the command line")
    rows = []
    with shown() as progress:
        model = model_for(saes, lm)
        documents = iter_documents(CorpusConfig())
        text = pack_for(model, documents, context=CONTEXT, n_contexts=config.contexts, progress=progress)
        spans = list(pairwise(range(len(saes)))) + ([(0, len(saes) - 1)] if len(saes) > 2 else [])
        for i, j in spans:
            steps = [MatchingFolder(out / f"{k}-{k + 1}").matching.read() for k in range(i, j)] if j - i > 1 else []
            folder = out / f"{i}-{j}"
            stage.run(
                config, saes[i], saes[j], folder, lm=model, text=text, sites=(sites[i], sites[j]), steps=steps,
                progress=progress,
            )  # fmt: skip
            quality = MatchingFolder(folder).quality.read()
            rows.append(
                {
                    "from": references[i],
                    "to": references[j],
                    "gap": shown_gap(quality["gap"], quality["cost"]),
                    "matching score": quality["matching_score"],
                    "chance": quality["chance"],
                    "explained variance": quality["skip"]["explained_variance"],
                    "CE change": quality["skip"]["ce_change"],
                    **{k: quality["classes"][k] for k in ("carried on", "changed", "died", "born")},
                }
            )
    show_table(pl.DataFrame(rows), as_json=as_json)
    if not as_json:
        say(f"Written: {out}")
    return 0


def _folder(out: Path | None) -> Path:
    if out is None:
        raise UserError("With --lm a folder for the results is needed.", hint="Give --out FOLDER.")
    return out


def _limit(text: str) -> float | Literal["null"]:
    if text == "null":
        return "null"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--reject takes a number or null, not {text!r}.") from None
