"""`saelab match`: the features of SAEs matched from one to the next, with the proof of optimality."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import polars as pl
from cyclopts import Parameter

from saelab.cli.models import model_for
from saelab.cli.output import note, say, show_table
from saelab.cli.progress import shown
from saelab.cli.references import run_of, text_at
from saelab.cli.story import tell
from saelab.core.errors import UserError
from saelab.store.folders import MatchingFolder
from saelab.store.tables import write_table

if TYPE_CHECKING:
    from saelab.core.progress import Progress
    from saelab.matching.match import Matching
    from saelab.saes.base import Sae
    from saelab.saes.directions import Directions

Fold = Literal["theta", "mean", "rms", "quantile", "max", "none"]
CONTEXT = 128  # tokens
EVEN = (1.0, 1.0, 1.0)  # weights of decoder, encoder and biases
ROUNDING = 1e-9  # of the cost: a gap below that is none


@dataclass(frozen=True)
class _Asked:
    """What a matching is put to work with."""

    settings: dict[str, Any]
    lm: str
    text: str | None
    weights: tuple[float, ...]
    direct: bool


def match(
    first: str,
    second: str | None = None,
    *more: str,
    story: bool = False,
    judge: str = "embedding",
    described_pairs: int = 100,
    corpus: list[str] | None = None,
    fold: Fold | None = None,
    parts: Literal["all", "decoder", "encoder"] | None = None,
    reject: str | None = None,
    weights: Annotated[tuple[float, float, float], Parameter(show_default=False)] = EVEN,
    direct: bool = False,
    lm: str | None = None,
    text: str | None = None,
    contexts: int = 64,
    loss_contexts: int = 8,
    shown_pairs: Annotated[int, Parameter(name="--pairs")] = 5,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Match features pairwise along a path of SAEs; with three or more, also end to end by composition.

    With --story the references are run folders whose studies have paths, and the figures of SAE Match are drawn.

    Parameters
    ----------
    first:
        Reference or folder of an SAE. REFERENCE#site names one site that a crosscoder, a cross-layer transcoder or a
        transcoder writes; its decoder rows are matched (--parts decoder --fold none).
    second:
        The next SAE.
    more:
        Further SAEs of the path.
    story:
        Draw the paper's figures from finished runs, a section for every language model: --out FOLDER gets story.html
        and numbers.csv.
    judge:
        Who compares descriptions for --story: embedding, local:LM or openai:MODEL.
    described_pairs:
        How many pairs of every matching --judge is asked about, in both orders.
    corpus:
        A further text for --story (reference; may be said again), beside the one held out from training.
    fold:
        Scale of each feature: theta (thresholds), none (cosine), or the mean, rms, 0.9 quantile or maximum of its
        active codes, which needs --lm. By default none.
    parts:
        Tensors compared: all, decoder, encoder. By default the decoder, since raw biases would rule the rest; all where
        --fold names a scale.
    reject:
        Reject cost of a partial matching: a number, or null for the level at which 1 % of features would match an
        unrelated dictionary.
    weights:
        How much decoder, encoder and biases count in the cost with --parts all; by default alike, 1 1 1.
    direct:
        Also match the first SAE directly with each later one, beside the composition of the steps.
    lm:
        Language model on whose activations folds are measured and matchings evaluated; the SAEs must say their sites.
    text:
        Text that they are evaluated on. By default what was held out from training, of SAEs of one run folder; of
        others the embedded corpus, and it is said whether they may have been trained on it.
    contexts:
        Contexts that are read with --lm or --story.
    loss_contexts:
        Of them, those on which --story runs the model on to its loss.
    shown_pairs:
        How many pairs of each step are listed, nearest first, with the descriptions that the SAEs' run folder holds.
    out:
        Without --lm: Parquet file for the pairs (step, a, b, cost, cosine). With it (and then needed): folder, one
        subfolder per step with matching.parquet and quality.json.
    json:
        Print JSON.
    """
    if story:
        runs = [Path(r.removeprefix("path:")) for r in (first, second, *more) if r is not None]
        return tell(
            runs, judge=judge, corpora=corpus or [], contexts=contexts, loss_contexts=loss_contexts,
            pairs=described_pairs, out=_folder(out),
        )  # fmt: skip
    if shown_pairs < 0:
        raise UserError(f"--pairs is how many pairs are listed, 0 or more, not {shown_pairs}.")
    if second is None:
        raise UserError("One SAE has nothing to be matched with.", hint="Name the next one, or a run with --story.")
    from saelab.cli.references import opened
    from saelab.saes.base import Sae

    found = [opened(r)[0] for r in (first, second, *more)]
    references = _names((first, second, *more))
    saes = [s for s in found if isinstance(s, Sae)]
    fold = fold or "none"
    parts = parts or ("decoder" if fold == "none" else "all")
    if tuple(weights) != EVEN and parts != "all":
        raise UserError(
            f"--weights weigh tensors against each other, and {parts} alone is compared.", hint="Add --parts all."
        )
    if lm is not None:
        if len(saes) < len(found):
            raise UserError("Decoder rows alone cannot be put to work on a model.", hint="Match them without --lm.")
        settings = _settings(fold, parts, reject, contexts)
        chosen = _Asked(settings, lm, text_at(text), tuple(weights), direct)
        return _evaluated((first, second, *more), saes, chosen, _folder(out), shown_pairs, json)
    if fold not in ("theta", "none"):
        raise UserError(f"--fold {fold} is measured on activations.", hint="Name the language model with --lm.")
    limit = None if reject is None else _limit(reject)
    with shown() as progress:
        rows, pairs = _steps(references, found, _given(fold, parts, limit, weights), direct, progress)
    if out is not None:
        write_table(out, pairs)
    show_table(rows, as_json=json)
    if not json:
        _list_pairs(pairs, (first, second, *more), shown_pairs)
    return 0


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
        rows.append(_row(references[step], references[step + 1], found) | _shares(found, (a, b)))
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


def _shares(found: "Matching", saes: "tuple[Sae | Directions, Sae | Directions]") -> dict[str, Any]:
    """What each tensor adds to the cost, where several are compared."""
    from saelab.matching.evaluate import cost_shares
    from saelab.matching.fold import features_of

    fold, parts, weights = found.asked
    if parts != "all":
        return {}
    first, second = (features_of(s, fold) for s in saes)
    shares = cost_shares(first, second, found.permutation, weights)
    return {f"{k} of cost": None if shares is None else shares[k] for k in ("decoder", "encoder", "bias")}


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


def _given(fold: Fold, parts: str, reject: Any, weights: Sequence[float]) -> dict[str, Any]:
    """What `saelab.match` is asked for."""
    return {"fold": fold, "parts": parts, "reject": reject, "weights": tuple(weights)}


def _list_pairs(pairs: pl.DataFrame, references: Sequence[str], most: int) -> None:
    """The nearest pairs of every step, with what is known of their features."""
    known = [_descriptions(r) for r in references]
    for (step,), part in pairs.filter(pl.col("b") >= 0).group_by("step", maintain_order=True):
        near = part.sort("cosine", descending=True, nulls_last=True).head(most)
        if not near.height:
            continue
        i = int(str(step))
        about = ((f"description of {side}", k) for side, k in zip("ab", known[i : i + 2], strict=True) if k)
        texts = [
            pl.Series(name, [k.get(n) or "none" for n in near[name[-1]].to_list()], pl.String) for name, k in about
        ]
        show_table(near.select("a", "b", "cosine", *texts), as_json=False, title=f"Nearest pairs of step {i}")


def _descriptions(reference: str) -> dict[int, str | None]:
    """What the features of an SAE respond to, where its run folder holds that."""
    found = run_of(reference)
    table = found and found[0].interp(found[1]).features
    if not table or not table.exists:
        return {}
    return dict(table.read().select("feature", "description").iter_rows())


def _evaluated(
    references: Sequence[str], saes: "Sequence[Sae]", asked: "_Asked", out: Path, listed: int, as_json: bool
) -> int:
    """Every step (and, of three or more SAEs, end to end) matched and put to work on a language model."""
    from saelab.matching import run as stage
    from saelab.matching.fold import features_of

    sites = [str(site) for s in saes if (site := s.cfg.site)]
    if len(sites) != len(saes):
        hint = "Name it, as in FOLDER#resid_post.12, or match without --lm."
        raise UserError("With --lm every SAE must say its site.", hint=hint)
    if asked.settings["fold"] == "theta":
        for sae in saes:
            features_of(sae, "theta")  # an SAE without thresholds is told before the model is loaded
    config = stage.MatchConfig.parse(asked.settings | {"weights": asked.weights}, origin="the command line")
    last, rows, pairs, names = len(saes) - 1, [], [], _names(references)
    ends = range(2, last + 1) if asked.direct else [last] if last > 1 else []
    with shown() as progress:
        model = model_for(saes, asked.lm)
        text = _text_for(model, saes, references, asked.text, config.contexts, progress)
        for i, j in [*pairwise(range(len(saes))), *((0, end) for end in ends)]:
            steps = [MatchingFolder(out / f"{k}-{k + 1}").matching.read() for k in range(i, j)] if j - i > 1 else []
            place = MatchingFolder(out / f"{i}-{j}")
            stage.run(
                config, saes[i], saes[j], place.root, lm=model, text=text, sites=(sites[i], sites[j]), steps=steps,
                progress=progress,
            )  # fmt: skip
            rows.append({"from": names[i], "to": names[j]} | _quality_row(place.quality.read()))
            if j == i + 1:
                pairs.append(place.matching.read(["a", "b", "cosine"]).with_columns(step=pl.lit(i)))
    show_table(pl.DataFrame(rows), as_json=as_json)
    if not as_json:
        _list_pairs(pl.concat(pairs), references, listed)
        say(f"Written: {out}")
    return 0


def _quality_row(quality: dict[str, Any]) -> dict[str, Any]:
    """A row of the summary from what is measured of a step; intervals are over documents, 95 %."""
    skip, beside = quality["skip"], dict[str, Any]()
    for name, label in (("directions", "directions alone"), ("folded", "all tensors, folded")):
        if (other := quality["controls"].get(name)) is not None:
            beside[f"matching score of {label}"] = other["matching_score"]
            beside[f"explained variance of {label}"] = other["skip"]["explained_variance"]
    return {
        "gap": shown_gap(quality["gap"], quality["cost"]),
        "matching score": quality["matching_score"],
        "matching score, 95 %": _ends(quality, "matching_score"),
        "chance": quality["chance"],
        "explained variance": skip["explained_variance"],
        "explained variance, 95 %": _ends(skip, "explained_variance"),
        "CE change": skip["ce_change"],
        "CE change, 95 %": _ends(skip, "ce_change"),
        **{f"{k} of cost": v for k, v in (quality.get("shares") or {}).items()},
        **beside,
        **{k: quality["classes"][k] for k in ("carried on", "changed", "merged", "died", "split off", "born")},
    }


def _ends(record: dict[str, Any], name: str) -> list[float] | None:
    low, high = record.get(f"{name}_low"), record.get(f"{name}_high")
    return None if low is None or high is None else [low, high]


def _text_for(
    model: Any, saes: "Sequence[Sae]", references: Sequence[str], text: str | None, contexts: int, progress: "Progress"
) -> Any:
    """Packed text to evaluate on: what was asked for, what one run held out, or the embedded corpus; said which."""
    from saelab.text.corpora import CorpusConfig, iter_documents
    from saelab.text.pack import PackedText, pack_for

    runs = [run_of(r) for r in references]
    roots = {run[0].root for run in runs if run is not None}
    if text is None and None not in runs and len(roots) == 1:
        kept = [p for p in sorted((roots.pop() / "tokens").glob("*/held_out")) if p.is_dir()]
        if len(kept) == 1:
            note("Evaluated on the text that their run held out from training.")
            return PackedText.load(kept[0])
    source = text or "embedded"
    own = {s.cfg.metadata.get("dataset_path") for s in saes}
    trained = "These SAEs were trained on text of this source" if source in own else "Whether they were trained on it"
    note(f"Evaluated on {source}. {trained}{', perhaps on the same documents.' if source in own else ' is not known.'}")
    documents = iter_documents(CorpusConfig() if text is None else CorpusConfig(source=text))
    return pack_for(model, documents, context=CONTEXT, n_contexts=contexts, progress=progress)


def _folder(out: Path | None) -> Path:
    if out is None:
        raise UserError("A folder for the results is needed.", hint="Give --out FOLDER.")
    return out


def _limit(text: str) -> float | Literal["null"]:
    if text == "null":
        return "null"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--reject takes a number or null, not {text!r}.") from None
