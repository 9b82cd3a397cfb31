"""Unlearning on local texts: how much of one topic can clamping latents take away, and leave the rest?

Latents are ranked by how often they fire on the topic among those that fire on at most a share of other text; at every
token the chosen ones that fire are set to -m times their mean activation on the topic, the SAE's error kept:

    x' = x - sum_f (f + m mean_f) W_dec[f]        over the chosen latents with f > 0
    score = largest relative rise of the topic's cross-entropy with that of other text up by at most 1 %; at least 0

Half of each text ranks, the other half is measured. This is the procedure of SAEBench's `unlearning` (Farrell et al.
2410.19278) with cross-entropy for multiple-choice answers and clamps in units of the latent, because its data are gated
and its model a large one: it is another measure, has another name and no SAEBench file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from saelab.activations.site import Recode, Restartable, SitePass, read_states, spliced_ce
from saelab.core.config import Config
from saelab.core.progress import Progress
from saelab.core.seeds import numpy_generator
from saelab.interp.suite import labelled
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import DataSet, Tensors, plain
from saelab.interp.suite.evaluation import Evaluation, SiteSuite, Subject
from saelab.interp.suite.result import Metrics, Result
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.text.corpora import Document
from saelab.text.pack import pack_for

KIND = "unlearning_local"
ALLOWED = 0.01  # relative rise of the cross-entropy of other text


class UnlearningConfig(Config):
    """What is to be forgotten, and the settings that are tried."""

    topic: tuple[str, str] = Field(default=("code_language", "Python"), description="Labelled set and class.")
    contexts: int = Field(default=64, ge=2, description="Contexts of the topic; as many of other text at most.")
    retain_thresholds: tuple[float, ...] = Field(default=(0.001, 0.01), description="Largest density elsewhere.")
    n_features_list: tuple[int, ...] = Field(default=(10, 20), description="Latents that are clamped.")
    multipliers: tuple[float, ...] = Field(default=(1.0, 2.0, 5.0, 10.0), description="m above.")


PRESETS: Mapping[Preset, UnlearningConfig] = {
    "paper": UnlearningConfig(),
    "small": UnlearningConfig(contexts=12, retain_thresholds=(0.01,), multipliers=(2.0, 5.0)),
    "tiny": UnlearningConfig(contexts=4, retain_thresholds=(0.1,), n_features_list=(4,), multipliers=(1.0,)),
}


@dataclass(frozen=True)
class Corpora:
    """The topic and other text, each in a ranking and a measured half, with clean cross-entropies of the latter."""

    forget: tuple[SitePass, SitePass]
    retain: tuple[SitePass, SitePass]
    clean: tuple[float, float]


def corpora(lm: Restartable, forget: SitePass, retain: SitePass) -> Corpora:
    """What the SAEs of a site share: every second context ranks, the others are measured."""
    halves = [(text.take(slice(0, None, 2)), text.take(slice(1, None, 2))) for text in (forget, retain)]
    clean = [spliced_ce(lm, measured, None) for _, measured in halves]
    return Corpora(halves[0], halves[1], clean=(clean[0], clean[1]))


def evaluate(lm: Restartable, texts: Corpora, sae: Sae, config: UnlearningConfig) -> Result:
    """The best setting of one SAE, and every setting beside it."""
    density, mean = _activity(sae, texts.forget[0])
    elsewhere, _ = _activity(sae, texts.retain[0])
    (forget, retain), details = texts.clean, []
    for threshold in config.retain_thresholds:
        for n in config.n_features_list:
            latents = rank(density, elsewhere, threshold, n)
            for m in config.multipliers if len(latents) else ():
                recode = clamped(sae, latents, m * mean[latents])
                after = [spliced_ce(lm, measured, recode) for _, measured in (texts.forget, texts.retain)]
                details.append(
                    {
                        "retain_threshold": threshold,
                        "n_features": len(latents),
                        "multiplier": m,
                        "forget_rise": after[0] / forget - 1,
                        "retain_rise": after[1] / retain - 1,
                    }
                )
    allowed = [row["forget_rise"] for row in details if row["retain_rise"] <= ALLOWED]
    metrics: Metrics = {
        "unlearning_local_score": max([0.0, *allowed]),
        "largest_forget_rise": max((row["forget_rise"] for row in details), default=None),
        "ce_forget": forget,
        "ce_retain": retain,
        "n_settings_allowed": len(allowed),
    }
    reason = None if details else "no latent fires on the topic and hardly elsewhere"
    return Result(KIND, {KIND: metrics}, config.model_dump(), details, reason=reason)


def rank(density: Float[Tensor, " F"], elsewhere: Float[Tensor, " F"], threshold: float, n: int) -> Int[Tensor, " K"]:
    """The n latents that fire most on the topic, of those that fire elsewhere below the threshold."""
    counted = torch.where(elsewhere < threshold, density, 0.0)
    order = counted.argsort(descending=True, stable=True)[:n]
    return order[counted[order] > 0]


def clamped(sae: Sae, latents: Int[Tensor, " K"], depth: Float[Tensor, " K"]) -> Recode:
    """x with every chosen latent that fires set to minus its depth, the SAE's error kept."""

    def recode(x: Tensor) -> Tensor:
        codes = sae.encode(x)[:, latents]
        return x - torch.where(codes > 0, codes + depth, 0.0) @ sae.W_dec[latents]

    return recode


def _activity(sae: Sae, text: SitePass) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
    """Share of kept tokens at which each latent fires, and its mean value there."""
    count, total, rows = torch.zeros(sae.cfg.d_sae), torch.zeros(sae.cfg.d_sae), text.rows
    with torch.inference_mode():
        for x in rows.split(4096):
            codes = sae.encode(x)
            count += (codes > 0).sum(0)
            total += codes.sum(0)
    return count / len(rows), total / count.clamp_min(1)


class TopicSet(DataSet):
    """The texts of one class, packed into contexts."""

    kind: Literal["topic"] = "topic"
    topic: tuple[str, str]
    contexts: int
    context: int = 128

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"topic.{plain(self.topic[0])}.{plain(self.topic[1])}.{self.contexts}.{self.context}"

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Tokens, activations and the positions that count, by site."""
        del progress
        data = labelled.load_labelled(self.topic[0])
        rows = numpy_generator(seed, "topic", *self.topic).permutation(data.rows(self.topic[1]))
        documents = [Document(str(i), data.texts[i]) for i in rows.tolist()]
        packed = pack_for(lm, documents, context=self.context, n_contexts=self.contexts)
        tokens = packed.tokens.long()
        kept = ~torch.isin(tokens, torch.tensor(sorted(lm.special_ids)))
        states = read_states(lm, tokens, sites)
        return {s: {"tokens": tokens, "hidden": x.to(torch.bfloat16), "kept": kept} for s, x in states.items()}


def _data_sets(config: SuiteConfig) -> list[TopicSet]:
    c = PRESETS[config.preset]
    return [TopicSet(topic=c.topic, contexts=c.contexts)]


def _prepare(site: SiteSuite) -> Corpora:
    """The topic beside as many contexts of held-out text."""
    (data,), text = _data_sets(site.config), site.text
    found, name = site.load(data.key), text.clean.site
    forget = SitePass(name, found["tokens"], found["hidden"].float(), found["kept"], found["kept"], 4)
    other = text.clean.take(slice(len(forget.tokens)))
    kept = ~torch.isin(other.tokens, torch.tensor(sorted(text.special)))
    return corpora(text.lm, forget, replace(other, kept=kept, scored=kept, batch_size=4))


def _evaluate(subject: Subject, shared: Corpora) -> Result:
    return evaluate(subject.site.text.lm, shared, subject.sae, PRESETS[subject.site.config.preset])


EVALUATION = Evaluation(KIND, PRESETS, _evaluate, _prepare, _data_sets)
