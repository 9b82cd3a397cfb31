"""The whole suite for one SAE: every evaluation that a preset asks for, from one shared reading of the model.

    SiteSuite   what the SAEs of a site share: readings, probes of the LM, baselines   (once)
    evaluate    one SAE: its own encoding, its own probes, its results                 (for each)

Presets: `paper` has SAEBench's sizes where the data allow, `small` is for a small LM on a few cores, `tiny` for tests
and rehearsals. Preset and deviations stand in every result, so that none is taken for another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import polars as pl
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Term
from saelab.interp.features import fuzzing, intervention
from saelab.interp.features.codes import encode_codes
from saelab.interp.run import SiteText
from saelab.interp.suite import (
    absorption,
    autointerp,
    core,
    meta_structure,
    ravel,
    sae_probes,
    scr,
    sparse_probing,
    tpp,
    unlearning,
)
from saelab.interp.suite.pooled import TextActivations, pool_activations, pool_codes
from saelab.interp.suite.readings import (
    ClassReading,
    FactsReading,
    PairReading,
    Reading,
    SetsReading,
    TopicReading,
    WordsReading,
    contexts_of,
    text_activations,
    words_of,
)
from saelab.interp.suite.result import Evaluation, Metrics, Preset
from saelab.judges.client import Judge
from saelab.saes.base import Sae

Kind = Literal[
    "core",
    "autointerp",
    "sparse_probing",
    "sparse_probing_sae_probes",
    "scr",
    "tpp",
    "absorption_first_letter",
    "meta_structure_decoder_variance",
    "ravel",
    "fuzzing",
    "intervention",
    "unlearning_local",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Load = Callable[[str], Mapping[str, Tensor]]


class SuiteConfig(Config):
    """Which of SAEBench's evaluations are run, and at what size."""

    preset: Preset = Field(default="small", description="paper, small or tiny.")
    only: tuple[Kind, ...] = Field(default=(), description="Only these; none: all.")
    ravel: str | None = Field(
        default=None, description="Folder of RAVEL's tables (path:...); without it there is no ravel."
    )
    seed: int = Field(default=42, description="The root of all draws of the suite.")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The evaluations, in the order in which they are run."""
        return tuple(k for k in KINDS if (not self.only or k in self.only) and (k != "ravel" or self.ravel))

    def readings(self) -> tuple[Reading, ...]:
        """What the language model has to read, each once."""
        found = [r for kind in self.kinds for r in self.readings_of(kind)]
        return tuple({r.key: r for r in found}.values())

    def readings_of(self, kind: Kind) -> Sequence[Reading]:
        """What one evaluation needs."""
        preset = self.preset
        if kind == "sparse_probing":
            c = sparse_probing.PRESETS[preset]
            return _classes(c.dataset_names, c.probe_train_set_size, c.probe_test_set_size, c.context_length)
        if kind == "tpp":
            t = tpp.PRESETS[preset]
            return _classes(t.dataset_names, t.train_set_size, t.test_set_size, t.context_length)
        if kind == "scr":
            s = scr.PRESETS[preset]
            n, m, context = s.n_train, s.n_test, s.context_length
            return [PairReading(pair=pair, n_train=n, n_test=m, context=context) for pair in s.pairs]
        if kind == "sparse_probing_sae_probes":
            return [SetsReading(config=sae_probes.PRESETS[preset])]
        if kind == "absorption_first_letter":
            return [WordsReading(config=absorption.PRESETS[preset])]
        if kind == "ravel" and self.ravel is not None:
            return [FactsReading(data=self.ravel, config=ravel.PRESETS[preset])]
        if kind == "unlearning_local":
            u = unlearning.PRESETS[preset]
            return [TopicReading(topic=u.topic, contexts=u.contexts)]
        return []


@dataclass(frozen=True)
class ClassSet:
    """One labelled set at a site: activations, tasks, the LM's own accuracies, the probes of TPP."""

    read: TextActivations
    x: Float[Tensor, "N D"]
    tasks: tuple[Any, ...]
    llm: Mapping[str, Metrics] | None
    probed: tpp.ProbedTasks | None


@dataclass(frozen=True)
class PairSet:
    """One crossed set at a site with its probes."""

    read: TextActivations
    x: Float[Tensor, "N D"]
    probed: scr.BiasedProbes


@dataclass(frozen=True)
class SetsRead:
    """The sets of sae-probes at a site: activations by set, tasks, the LM's own scores."""

    x: Mapping[str, Float[Tensor, "N D"]]
    tasks: tuple[sae_probes.BinaryTask, ...]
    left_out: tuple[str, ...]
    llm: Mapping[str, Metrics]


@dataclass(frozen=True)
class SiteSuite:
    """All that the SAEs of one site share."""

    config: SuiteConfig
    text: SiteText
    core: core.CoreReading | None
    classes: Mapping[str, ClassSet]
    pairs: Mapping[str, PairSet]
    sets: SetsRead | None
    words: absorption.SpelledWords | None
    topic: unlearning.Corpora | None
    facts: ravel.Facts | None


def prepare(config: SuiteConfig, text: SiteText, load: Load, progress: Progress = SILENT) -> SiteSuite:
    """Baselines and probes of the LM at a site. load(key): the tensors of a reading at this site."""
    kinds, seed = config.kinds, config.seed
    classes, pairs = {}, {}
    sets = words = baselines = topic = facts = None
    readings = config.readings()
    with progress.task(f"probing {text.reading.site}", total=len(readings) + 1, unit="readings") as task:
        if "core" in kinds:
            wanted = core.PRESETS[config.preset]
            baselines = core.read_core(text.lm, text.reading, text.special, wanted.contexts)
        task.advance()
        for reading in readings:
            if isinstance(reading, ClassReading):
                classes[reading.key] = _class_set(config, reading, load(reading.key))
            elif isinstance(reading, PairReading):
                read = text_activations(load(reading.key))
                x = pool_activations(read)
                confounded = reading.tasks(seed)[1]
                pairs[confounded.name] = PairSet(read, x, scr.probe_confounded(x, confounded, seed))
            elif isinstance(reading, SetsReading):
                sets = _sets(reading, load(reading.key), seed)
            elif isinstance(reading, WordsReading):
                words = absorption.probe_letters(words_of(load(reading.key)), seed)
            elif isinstance(reading, FactsReading):
                facts = ravel.Facts(**dict(load(reading.key)))
            else:
                topic = _topic(text, contexts_of(load(reading.key)))
            task.advance()
    return SiteSuite(config, text, baselines, classes, pairs, sets, words, topic, facts)


def evaluate(
    site: SiteSuite, sae: Sae, features: pl.DataFrame, judge: Judge, *, progress: Progress = SILENT
) -> list[Evaluation]:
    """Every evaluation of one SAE. features: its table of the interp stage, with the descriptions that are judged."""
    makers: dict[Kind, Callable[[], Evaluation]] = {
        "core": lambda: _core(site, sae),
        "autointerp": lambda: autointerp.evaluation(features, {"n_scored": site.text.config.n_scored}),
        "scr": lambda: _scr(site, sae),
        "sparse_probing_sae_probes": lambda: _sae_probes(site, sae),
        "absorption_first_letter": lambda: _absorption(site, sae),
        "meta_structure_decoder_variance": lambda: _meta(site, sae),
        "fuzzing": lambda: _fuzzing(site, sae, features, judge),
        "intervention": lambda: _intervention(site, sae, features, judge),
        "ravel": lambda: _ravel(site, sae),
        "unlearning_local": lambda: _unlearning(site, sae),
    }
    with progress.task("evaluating", total=len(site.config.kinds), unit="evaluations") as task:
        found = _probing_and_tpp(site, sae)
        task.advance(len(found))
        for kind in site.config.kinds:
            if kind in makers:
                found.append(makers[kind]())
                task.advance(part=kind)
    settings = {"preset": site.config.preset, "random_seed": site.config.seed}
    return [_with(result, settings) for result in sorted(found, key=lambda r: KINDS.index(r.kind))]  # type: ignore[arg-type]


def _with(result: Evaluation, settings: Mapping[str, Any]) -> Evaluation:
    return replace(result, config={**settings, **result.config})


def _core(site: SiteSuite, sae: Sae) -> Evaluation:
    assert site.core is not None
    text = site.text
    contexts = torch.from_numpy(text.places) // text.reading.tokens.shape[1]
    densities = core.Densities(text.rows, contexts)
    return core.evaluate(text.lm, site.core, sae, core.PRESETS[site.config.preset], densities)


def _fuzzing(site: SiteSuite, sae: Sae, features: pl.DataFrame, judge: Judge) -> Evaluation:
    text = site.text
    codes = encode_codes(sae.encode, text.rows, text.places)
    told, calibrated = described(features), text.config.calibrated
    return fuzzing.evaluate(codes, text.finder, text.strings, told, judge, calibrated=calibrated, seed=site.config.seed)


def _intervention(site: SiteSuite, sae: Sae, features: pl.DataFrame, judge: Judge) -> Evaluation:
    largest = dict(features.select("feature", "max_activation").iter_rows())
    config, told = intervention.PRESETS[site.config.preset], described(features)
    return intervention.evaluate(site.text.lm, site.text.reading.site, sae, told, largest, judge=judge, config=config)


def _ravel(site: SiteSuite, sae: Sae) -> Evaluation:
    assert site.facts is not None
    config, text = ravel.PRESETS[site.config.preset], site.text
    return ravel.evaluate(text.lm, text.reading.site, site.facts, sae, config, site.config.seed)


def _unlearning(site: SiteSuite, sae: Sae) -> Evaluation:
    assert site.topic is not None
    config, text = unlearning.PRESETS[site.config.preset], site.text
    return unlearning.evaluate(text.lm, text.reading.site, site.topic, sae, config)


def _topic(text: SiteText, forget: unlearning.Contexts) -> unlearning.Corpora:
    """The topic beside as many contexts of held-out text."""
    reading, n = text.reading, len(forget.tokens)
    kept = ~torch.isin(reading.tokens[:n], torch.tensor(sorted(text.special)))
    retain = unlearning.Contexts(reading.tokens[:n], reading.hidden[:n], kept)
    return unlearning.corpora(text.lm, reading.site, forget, retain)


def described(features: pl.DataFrame) -> dict[int, Description]:
    """The descriptions of the features that detection has tested."""
    rows = features.filter(pl.col("state") == "ok").iter_rows(named=True)
    return {
        row["feature"]: Description(row["description"], tuple(Term(t["text"], t["weight"]) for t in row["terms"]))
        for row in rows
    }


def _meta(site: SiteSuite, sae: Sae) -> Evaluation:
    return meta_structure.evaluate(sae.W_dec, meta_structure.PRESETS[site.config.preset], seed=site.config.seed)


def _absorption(site: SiteSuite, sae: Sae) -> Evaluation:
    assert site.words is not None
    return absorption.evaluate(site.words, sae, absorption.PRESETS[site.config.preset], site.config.seed)


def _scr(site: SiteSuite, sae: Sae) -> Evaluation:
    config = scr.PRESETS[site.config.preset]
    rows = {}
    for name, pair in site.pairs.items():
        rows[name] = scr.remove(pair.probed, pair.x, pool_codes(sae, pair.read), sae.W_dec, config.n_values)
    return scr.evaluation(rows, config.model_dump())


def _sae_probes(site: SiteSuite, sae: Sae) -> Evaluation:
    config, sets = sae_probes.PRESETS[site.config.preset], site.sets
    assert sets is not None
    rows = {}
    for task in sets.tasks:
        with torch.inference_mode():
            codes = sae.encode(sets.x[task.name].float())
        rows[task.name] = sae_probes.probe_latents(codes, task.split, config.ks, site.config.seed, task.name)
    return sae_probes.evaluation(sets.llm, rows, config, sets.left_out)


def _probing_and_tpp(site: SiteSuite, sae: Sae) -> list[Evaluation]:
    """Both from one pooling of the codes of every labelled set."""
    preset, seed = site.config.preset, site.config.seed
    probing, targeted = sparse_probing.PRESETS[preset], tpp.PRESETS[preset]
    llm, rows, perturbed = {}, {}, {}
    for key, part in site.classes.items():
        name, codes = key.split(".")[1], pool_codes(sae, part.read)
        if part.llm is not None:
            llm[name] = part.llm
            rows[name] = sparse_probing.probe_tasks(codes, part.tasks, probing.k_values, "sae", seed, name)
        if part.probed is not None:
            perturbed[name] = tpp.perturb(part.probed, part.x, codes, sae.W_dec, targeted.n_values)
    found = []
    if rows:
        found.append(sparse_probing.evaluation(llm, rows, probing.k_values, probing.model_dump()))
    if perturbed:
        found.append(tpp.evaluation(perturbed, targeted.model_dump()))
    return found


def _class_set(config: SuiteConfig, reading: ClassReading, tensors: Mapping[str, Tensor]) -> ClassSet:
    seed, name = config.seed, reading.key.split(".")[1]
    read, tasks = text_activations(tensors), tuple(reading.tasks(seed)[1])
    x = pool_activations(read)
    probing = sparse_probing.PRESETS[config.preset]
    llm = probed = None
    needs = {k: k in config.kinds and reading in config.readings_of(k) for k in ("sparse_probing", "tpp")}
    if needs["sparse_probing"]:
        llm = sparse_probing.probe_tasks(x, tasks, probing.k_values, "llm", seed, name)
    if needs["tpp"]:
        probed = tpp.probe_classes(x, tasks, seed, name)
    return ClassSet(read, x, tasks, llm, probed)


def _sets(reading: SetsReading, tensors: Mapping[str, Tensor], seed: int) -> SetsRead:
    tasks, left_out = reading.tasks(seed)
    x = {task.name: tensors[task.name].float() for task in tasks}
    llm = {t.name: sae_probes.probe_whole(x[t.name], t.split, seed, t.name) for t in tasks}
    return SetsRead(x, tuple(tasks), tuple(left_out), llm)


def _classes(names: Sequence[str], train: int, test: int, context: int) -> list[ClassReading]:
    """Totals of a balanced task to texts per class."""
    return [ClassReading(name=name, n_train=train // 2, n_test=test // 2, context=context) for name in names]
