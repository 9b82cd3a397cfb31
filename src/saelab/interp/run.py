"""The interpretability stage: one SAE in; its fidelity, its features, their contexts and their material out.

A `SiteText` is prepared once per site and shared by all its SAEs: the clean pass over the held-out text, the ablations,
the random controls, the windows. The only place of this package with files. An SAE is encoded once over the text; every
live feature is described, a random sample of them is tested by detection.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from saelab.activations.shards import ActivationShards
from saelab.activations.site import SitePass, both, read_site
from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Term
from saelab.core.seeds import numpy_generator
from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.features.contexts import contexts_table
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe
from saelab.interp.features.detection import Detection, Trial, detect
from saelab.interp.features.material import LENS, MaterialSource, write_material
from saelab.interp.features.profile import lens_scores
from saelab.interp.features.windows import DESCRIBE, TEST, Passages, WindowConfig, WindowFinder, Windows, window_strings
from saelab.interp.fidelity.control import RandomDictionary, control_k
from saelab.interp.fidelity.measures import Baselines, baselines_of, reconstruction_of, splice, splice_rows
from saelab.judges.client import Judge
from saelab.lm.model import LanguageModel
from saelab.saes.transcoder import AnySae, Transcoder, acts_at
from saelab.store.folders import InterpFolder
from saelab.text.pack import PackedText

FEATURES = {
    "feature": pl.Int64,
    "density": pl.Float64,
    "max_activation": pl.Float64,
    "mean_activation": pl.Float64,
    "description": pl.String,
    "terms": pl.List(pl.Struct({"text": pl.String, "weight": pl.Float64, "raw": pl.String})),
    "accuracy": pl.Float64,
    "balanced_accuracy": pl.Float64,
    "auroc": pl.Float64,
    "embedding_auroc": pl.Float64,
    "n_windows": pl.Int64,
    "n_missing": pl.Int64,
    "state": pl.String,
    "judge": pl.String,
}


UNTRAINED = 64  # features of a random dictionary that are tested at most


class InterpConfig(Config):
    """Settings of fidelity and automated interpretability."""

    fidelity_contexts: int = Field(default=64, ge=1, description="Held-out contexts on which L0 and FVU are measured.")
    spliced_contexts: int = Field(
        default=64,
        ge=1,
        description="How many of them, evenly spread, on which the LM runs on with the SAE spliced in.",
    )
    batch_contexts: int = Field(default=8, ge=1, description="Contexts per pass of the LM.")
    window_rows: int = Field(default=120_000, ge=1, description="Rows of activations to describe and test features on.")
    n_scored: int = Field(default=300, ge=0, description="Live features, drawn at random, whose description is tested.")
    n_embedded: int = Field(
        default=32, ge=0, description="How many of them are also told by the meaning of the description (embedding)."
    )
    n_contexts: int = Field(default=8, ge=0, description="Top contexts kept per feature.")
    material: bool = Field(
        default=True, description="What `saelab explore` shows of every feature is kept; else it makes it at first use."
    )
    calibrated: bool = Field(default=True, description="The judge is graded: its cut is set on the describing windows.")
    windows: WindowConfig = WindowConfig()
    describe: DescribeConfig = DescribeConfig()
    seed: int = Field(default=0, description="Names the draws: random dictionary, features that are scored.")


@dataclass
class InterpSite:
    """All that the SAEs of one site share. Filled lazily: a control is measured when the first SAE asks for it.

    clean: what is read; spliced: the contexts in which what is rebuilt is replaced. target, source: of transcoders,
    the whole pass over what is rebuilt, and what is read in the spliced contexts.
    """

    config: InterpConfig
    lm: LanguageModel
    clean: SitePass
    spliced: SitePass
    baselines: Baselines
    finder: WindowFinder
    rows: Float[Tensor, "N D"]
    places: Int[np.ndarray, " N"]
    strings: Sequence[str]
    special: frozenset[int] = frozenset()
    target: SitePass | None = None
    source: SitePass | None = None
    controls: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    untrained: dict[tuple[int, int, str], dict[str, Any]] = field(default_factory=dict)

    def control(self, d_sae: int, l0: float) -> dict[str, Any]:
        """The random dictionary that stands beside an SAE of this width and L0: k, fvu, ce_spliced, ce_recovered."""
        key = (d_sae, min(control_k(l0), d_sae))
        if key not in self.controls:
            rows = (self.target or self.clean).rows
            random = RandomDictionary.fit(rows, *key, seed=self.config.seed)
            lost = splice(self.lm, self.spliced, self.baselines, lambda x: random.decode(random.encode(x)))
            quality = reconstruction_of(random.encode, random.decode, rows)
            self.controls[key] = {
                "k": key[1],
                "l0": quality.l0,
                "fvu": quality.fvu,
                "ce_spliced": lost.ce,
                "ce_recovered": lost.recovered,
                "ce_recovered_zero": lost.recovered_zero,
            }
        return self.controls[key]

    def interpretability_of_untrained(self, d_sae: int, l0: float, judges: "Judges") -> dict[str, Any]:
        """How interpretable the features of a random dictionary score that stands beside an SAE: mean balanced
        accuracy and AUROCs with the number of features. Its k is the SAE's L0 to the nearest power of two, so that one
        control serves many SAEs.
        """
        k = min(d_sae, 2 ** round(np.log2(max(1.0, l0))))
        key = (d_sae, k, judges.first.name)
        if key not in self.untrained:
            random = RandomDictionary.fit(self.clean.rows, d_sae, k, seed=self.config.seed)
            codes = encode_codes(random.encode, self.rows, self.places)
            # Only what is tested is described: of an SAE all features are, for their labels.
            tested = scored_sample(codes.counts() > 0, min(UNTRAINED, self.config.n_scored), self.config.seed)
            table = measure_features(self, codes.only(sorted(tested)), judges=judges).filter(pl.col("state") == "ok")
            means = table.select(pl.col("balanced_accuracy", "auroc", "embedding_auroc").mean()).row(0, named=True)
            self.untrained[key] = {"k": k, "n": table.height, **means}
        return self.untrained[key]


@dataclass(frozen=True)
class Judges:
    """Who tests descriptions: the study's judge, and one by meaning beside it (None: there is none)."""

    first: Judge
    meaning: Judge | None = None


def prepare(
    config: InterpConfig,
    lm: LanguageModel,
    *,
    site: str,
    held_out: PackedText,
    packed: PackedText,
    shards: ActivationShards,
    written: str | None = None,
    progress: Progress = SILENT,
) -> InterpSite:
    """Read a site once. written: the other site, which transcoders rebuild.

    held_out: text that no SAE was trained on, for fidelity. packed, shards: the text that was harvested and its
    activations at the site, for descriptions and detection.
    """
    if shards.site != site:
        raise UserError(f"The activations are those of {shards.site}, not of {site}.")
    with progress.task(f"reading {site}", total=4, unit="passes") as task:
        part = held_out.first(config.fidelity_contexts)
        clean = read_site(lm, part, site, batch_size=config.batch_contexts)
        target = source = None
        if written is not None:
            target = read_site(lm, part, written, batch_size=config.batch_contexts)
            clean, target = both(clean, target)
            source = clean.spread(config.spliced_contexts)
        task.advance()
        replaced = clean if target is None else target
        spliced = replaced.spread(config.spliced_contexts)
        baselines = baselines_of(lm, spliced, replaced.rows.mean(0))
        task.advance(3)
    rows, places = harvested_rows(shards, config.window_rows, packed.context)
    contexts = int(places[-1]) // packed.context + 1
    passages = Passages(packed.tokens[:contexts].numpy(), packed.document_ids[:contexts].numpy())
    finder = WindowFinder.over(passages, config.windows)
    strings = lm.token_texts(range(lm.vocab_size))
    special = held_out.special_ids
    return InterpSite(
        config, lm, clean, spliced, baselines, finder, rows, places, strings, special, target=target, source=source
    )


def run(
    site_text: InterpSite,
    sae: AnySae,
    folder: Path,
    *,
    judge: Judge,
    meaning: Judge | None = None,
    also: Iterable[int] = (),
    progress: Progress = SILENT,
) -> list[Path]:
    """Evaluate one SAE and write its files into `folder`.

    meaning: a judge that tells windows by the meaning of the description, beside the first. also: features to test by
    detection besides the random sample (those that another stage has chosen).
    """
    config = site_text.config
    if sae.cfg.d_in != site_text.rows.shape[1]:
        raise UserError(f"The SAE reads width {sae.cfg.d_in}; the site is {site_text.rows.shape[1]} wide.")
    place = InterpFolder(folder)
    with progress.task(f"interpreting {folder.name}", total=5, unit="parts") as task:
        codes = encode_codes(sae.encode, site_text.rows, site_text.places)
        task.advance(part="encoded")
        fidelity = measure_fidelity(site_text, sae, codes)
        task.advance(part="fidelity")
        judges = Judges(judge, meaning)
        features = measure_features(site_text, codes, judges=judges, also=also)
        beside = site_text.interpretability_of_untrained(sae.cfg.d_sae, fidelity["l0"], judges)
        fidelity["random_dictionary"] |= {"interpretability": beside}
        task.advance(part="features")
        live = np.flatnonzero(codes.counts()).tolist()
        described = features.filter(pl.col("terms").list.len() > 0)
        first = {f: Term(**terms[0]) for f, terms in described.select("feature", "terms").iter_rows()}
        contexts = contexts_table(
            codes, site_text.finder, site_text.strings, live, count=config.n_contexts, terms=first
        )
        task.advance(part="contexts")
        kept = _keep_material(site_text, sae, codes, features, place) if config.material else []
        task.advance(part="material")
    written = [place.fidelity.write(fidelity), place.features.write(features), place.contexts.write(contexts)]
    return [*written, *kept]


def _keep_material(
    site_text: InterpSite, sae: AnySae, codes: Codes, features: pl.DataFrame, place: InterpFolder
) -> list[Path]:
    finder, lm = site_text.finder, site_text.lm
    told = dict(features.select("feature", "description").drop_nulls().iter_rows())
    source = MaterialSource(
        codes,
        finder.passages,
        site_text.places,
        site_text.strings,
        decoder=sae.W_dec,
        thresholds=finder.thresholds(codes),
        described=lambda asked: {f: told[f] for f in asked if f in told},
        lens=lambda asked: lens_scores(lm, sae.W_dec, asked, LENS, acts_at(sae)),
    )
    return write_material(source, place.material)


def measure_fidelity(site_text: InterpSite, sae: AnySae, codes: Codes) -> dict[str, Any]:
    """The record of `fidelity.json`: the measures of the room fidelity, dead latents, and the random control.

    Of a transcoder all but L0 is of the site that it writes, where its output takes the place of the activations; the
    random control is a dictionary of that site, which reads what it rebuilds.

    dead_share: share of latents silent on all rows of the window text. tokens: rows of the held-out text.
    """
    clean, baselines = site_text.clean, site_text.baselines
    rows = clean.rows
    if isinstance(sae, Transcoder):
        if site_text.target is None or site_text.source is None:
            raise UserError("A transcoder is measured where both of its sites were read.")
        quality = reconstruction_of(sae.encode, sae.decode, rows, across=(site_text.target.rows, sae.forward))
        with torch.inference_mode():
            rebuilt = sae(site_text.source.rows)
        lost = splice_rows(site_text.lm, site_text.spliced, baselines, rebuilt)
    else:
        quality = reconstruction_of(sae.encode, sae.decode, rows)
        lost = splice(site_text.lm, site_text.spliced, baselines, sae.forward)
    return {
        "l0": quality.l0,
        "fvu": quality.fvu,
        "ce_clean": baselines.clean,
        "ce_spliced": lost.ce,
        "ce_mean_ablated": baselines.mean_ablated,
        "ce_zero_ablated": baselines.zero_ablated,
        "ce_recovered": lost.recovered,
        "ce_recovered_zero": lost.recovered_zero,
        "dead_share": float((codes.counts() == 0).mean()),
        "dead_tokens": codes.n_rows,
        "tokens": len(rows),
        "predicted_tokens": int(site_text.spliced.scored.sum()),
        **{k: v for k, v in asdict(quality).items() if k not in ("l0", "fvu")},
        "lm_dtype": str(site_text.lm.dtype).removeprefix("torch."),
        "random_dictionary": site_text.control(sae.cfg.d_sae, quality.l0),
    }


def measure_features(
    site_text: InterpSite,
    codes: Codes,
    *,
    judges: Judges,
    also: Iterable[int] = (),
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """One row per feature, with the columns of `FEATURES`.

    state: "ok" (tested), "dead" (never active), "too_few" (too few windows, or no term stands out, to be tested), or
    "untested" (described, not in the sample).
    """
    config, finder = site_text.config, site_text.finder
    largest = finder.thresholds(codes) / config.windows.active_fraction
    read = np.zeros(finder.passages.tokens.size, bool)
    read[site_text.places] = True
    text = DescribingText.over(finder.passages, read & (finder.sides == DESCRIBE), site_text.strings)
    described = describe(codes, text, largest, config.describe)
    wanted = scored_sample(codes.counts() > 0, config.n_scored, config.seed) | set(also)
    trials = list(_trials(site_text, codes, described, sorted(wanted)))
    scores = {d.feature: d for d in detect(trials, judges.first, calibrated=config.calibrated, progress=progress)}
    found = _features_table(codes, described, scores, wanted, judges.first.name)
    aurocs: dict[int, float | None] = {}
    if judges.meaning is not None:
        shown = scored_sample(np.isin(np.arange(codes.n_features), list(scores)), config.n_embedded, config.seed)
        asked = [trial for trial in trials if trial.feature in shown]
        aurocs = {d.feature: d.auroc for d in detect(asked, judges.meaning, calibrated=False, progress=progress)}
    second = pl.col("feature").replace_strict(aurocs, default=None, return_dtype=pl.Float64)
    return found.with_columns(embedding_auroc=second).select(list(FEATURES))


def scored_sample(alive: Bool[np.ndarray, " F"], count: int, seed: int) -> set[int]:
    """`count` live features drawn at random; the draw of a feature does not depend on which others are alive."""
    order = numpy_generator(seed, "scored features").permutation(len(alive))
    return {int(f) for f in order[alive[order]][:count]}


def _trials(
    site_text: InterpSite, codes: Codes, described: Mapping[int, Description], features: Iterable[int]
) -> Iterable[Trial]:
    """Trials of the features that have enough windows of both kinds on both sides."""
    finder, config = site_text.finder, site_text.config.windows
    tokens = finder.passages.tokens.reshape(-1)

    def strings(windows: Windows) -> tuple[tuple[str, ...], ...]:
        return tuple(window_strings(tokens, site_text.strings, windows.centres, config.radius))

    for feature in features:
        if feature in described:
            sides = [finder.find(codes, feature, side) for side in (DESCRIBE, TEST)]
            if all(w.active.sum() >= config.least_active and (~w.active).sum() >= config.least_inactive for w in sides):
                shown, test = sides
                yield Trial(feature, described[feature], strings(shown), shown.active, strings(test), test.active)


def _features_table(
    codes: Codes, described: Mapping[int, Description], scores: Mapping[int, Detection], wanted: set[int], judge: str
) -> pl.DataFrame:
    rows = []
    for feature, count in enumerate(codes.counts().tolist()):
        values = codes.of(feature)[1]
        description, score = described.get(feature), scores.get(feature)
        state = "dead" if not count else "untested" if feature not in wanted else "too_few" if score is None else "ok"
        if score is not None and score.auroc is None:
            state = "missing"
        rows.append(
            {
                "feature": feature,
                "density": count / codes.n_rows,
                "max_activation": float(values.max()) if count else 0.0,
                "mean_activation": float(values.mean()) if count else 0.0,
                "description": description.text if description else None,
                "terms": [vars(term) for term in description.terms] if description else [],
                "accuracy": score.accuracy if score else None,
                "balanced_accuracy": score.balanced_accuracy if score else None,
                "auroc": score.auroc if score else None,
                "n_windows": score.n_windows if score else 0,
                "n_missing": score.n_missing if score else 0,
                "state": state,
                "judge": judge,
            }
        )
    return pl.DataFrame(rows, schema={k: v for k, v in FEATURES.items() if k != "embedding_auroc"})


def harvested_rows(shards: ActivationShards, count: int, context: int) -> tuple[Tensor, np.ndarray]:
    """The first `count` rows of the shards, and their flattened positions in the text."""
    rows, places, found = [], [], 0
    for k in range(len(shards.manifest.shards)):
        shard = shards.read(k)
        rows.append(shard.rows)
        places.append(shard.context.long() * context + shard.position)
        found += len(shard.rows)
        if found >= count:
            break
    return torch.cat(rows)[:count], torch.cat(places)[:count].numpy()
