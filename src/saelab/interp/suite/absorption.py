"""Absorption: how often do the latents of "starts with this letter" stay silent because a word's own latent took over?

A probe p for each letter is trained on the LM's activations at the word; the latents F of a letter are those of the
smallest k-sparse probe that another latent would not improve by 0.03 of F1. For a word the probe gets right, with unit
p, P = <x, p>, a latent's part of it g_f = a_f <W_dec[f], p> and M = sum of g over F:

    fraction  0 where M >= P or T / P < 0.4; 1 where M <= 0; else r / (r + M) with r = min(T, P - M),
              T the sum of the three largest g outside F whose cosine with p is at least 0.1
    full      all of F silent, and the latent of largest g has cosine >= 0.025 and g / P >= 0.4

Lower is better, but an undertrained or random SAE is low too: read it with `core` and the probes' F1. Source: SAEBench
`absorption_first_letter` (0.6.0), Chanin et al. 2409.14507. Texts are read in words.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.progress import Progress
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import DataSet, Tensors
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.probes import Probes, fit_logistic, fit_together
from saelab.interp.suite.result import Metrics, Result
from saelab.interp.suite.words import LETTERS, WordActivations, read_words
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae

KIND = "absorption_first_letter"
DEVIATIONS = (
    "a prompt ends at the word: causal attention does not see what follows it",
    "named generators (upstream's are not seeded)",
    "g uses the decoder row as it is; for unit rows this is upstream's a_f cos",
)
FULL_COSINE, COSINE, PROPORTION, ABSORBERS = 0.025, 0.1, 0.4, 3


class AbsorptionConfig(Config):
    """How many words, in what prompts, and when a letter counts."""

    words: int = Field(default=100_000, ge=1, description="Words of the vocabulary, drawn at random.")
    icl_examples: int = Field(default=10, ge=0, description="Spelt examples before the word.")
    max_k_value: int = Field(default=10, ge=1, description="Largest k of the k-sparse probes.")
    f1_jump_threshold: float = Field(default=0.03, description="Gain of F1 that one more latent must bring.")
    min_GT_probe_f1: float = Field(default=0.6, description="F1 that the probe of a letter needs.")
    min_feats_for_eval: int = Field(default=20, ge=2, description="Letters needed for a score.")
    k_sparse_probe_l1_decay: float = Field(default=0.01, description="Weight of L1 in the choice of latents.")
    k_sparse_probe_num_epochs: int = Field(default=50, ge=1, description="Epochs of that choice.")


PRESETS: Mapping[Preset, AbsorptionConfig] = {
    "paper": AbsorptionConfig(),
    "small": AbsorptionConfig(words=1500, icl_examples=3, max_k_value=5, min_GT_probe_f1=0.3, min_feats_for_eval=5),
    "tiny": AbsorptionConfig(words=200, icl_examples=1, max_k_value=2, min_GT_probe_f1=0.05, min_feats_for_eval=2),
}


class WordSet(DataSet):
    """The words of the vocabulary in spelling prompts."""

    kind: Literal["words"] = "words"
    config: AbsorptionConfig

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"words.{self.config.words}.{self.config.icl_examples}"

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations at the words, by site."""
        count, examples = self.config.words, self.config.icl_examples
        found = read_words(lm, sites, count=count, examples=examples, seed=seed, progress=progress)
        return {site: dict(vars(words)) for site, words in found.items()}


@dataclass(frozen=True)
class SpelledWords:
    """What the SAEs of a site share: the words, the letters' probes, and each probe's F1 on the test words."""

    words: WordActivations
    probes: Probes
    f1: tuple[float, ...]


def probe_letters(words: WordActivations, *names: str | int) -> SpelledWords:
    """Train the probes on the LM's own activations."""
    probes = fit_together(words.train, _one_hot(words.train_letters), *names, "letters")
    said = probes.scores(words.test) > 0
    truth = _one_hot(words.test_letters)
    return SpelledWords(words, probes, tuple(f1_of(said[:, c], truth[:, c]) for c in range(len(LETTERS))))


def evaluate(spelled: SpelledWords, sae: Sae, config: AbsorptionConfig, *names: str | int) -> Result:
    """The score of one SAE; metrics are None (with a reason) where too few letters have a good probe."""
    good = [c for c, f1 in enumerate(spelled.f1) if f1 > config.min_GT_probe_f1]
    settings = config.model_dump() | {"deviations": list(DEVIATIONS)}
    if len(good) < config.min_feats_for_eval:
        reason = f"the model spells {len(good)} letters well enough; {config.min_feats_for_eval} are needed"
        return Result(KIND, {"mean": _summary([])}, settings, reason=reason)
    words = spelled.words
    with torch.no_grad():
        train, test, again = (sae.encode(x) for x in (words.train, words.test, words.again))
    chosen = fit_together(
        train,
        _one_hot(words.train_letters),
        *names,
        "k-sparse",
        batch_size=4096,
        epochs=config.k_sparse_probe_num_epochs,
        l1=config.k_sparse_probe_l1_decay,
        weight_decay=1e-6,
    )
    details, said = [], spelled.probes.scores(words.test) > 0
    for c in good:
        yes = words.train_letters == c
        latents = letter_latents(chosen.weight[c], train, yes, test, words.test_letters == c, config)
        hit = (words.test_letters == c) & said[:, c]
        if bool(hit.any()):
            details.append(_letter(c, latents, spelled.probes.weight[c], words.again[hit], again[hit], sae.W_dec))
    reason = None if len(details) > 1 else "fewer than two letters have words to test"
    return Result(KIND, {"mean": _summary(details)}, settings, details, reason=reason)


def letter_latents(
    weight: Float[Tensor, " F"],
    train: Float[Tensor, "N F"],
    yes: Bool[Tensor, " N"],
    test: Float[Tensor, "M F"],
    truth: Bool[Tensor, " M"],
    config: AbsorptionConfig,
) -> Int[Tensor, " K"]:
    """The latents that stand for a letter: k of the largest weights, k grown while F1 grows by the threshold."""
    order = weight.topk(min(config.max_k_value, len(weight))).indices
    best, kept = -1.0, order[:1]
    for k in range(1, len(order) + 1):
        probe = fit_logistic(train[:, order[:k]], yes.numpy(), balanced=True)
        f1 = f1_of(probe.predict(test[:, order[:k]]), truth)
        if k > 1 and f1 <= best + config.f1_jump_threshold:
            break
        best, kept = f1, order[:k]
    return kept


def absorbed(
    probe: Float[Tensor, " D"],
    x: Float[Tensor, "N D"],
    codes: Float[Tensor, "N F"],
    W_dec: Float[Tensor, "F D"],
    latents: Int[Tensor, " K"],
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """(fraction, full) of each word, by the rules at the head of this file."""
    unit = probe / probe.norm()
    along = W_dec @ unit
    cosine = along / W_dec.norm(dim=1).clamp_min(1e-12)
    parts = codes * along
    P, M = x.float() @ unit, parts[:, latents].sum(1)
    others = parts.clone()
    others[:, latents] = 0
    counted = torch.where((cosine >= COSINE) & (others > 0), others, 0.0)
    T = counted.topk(min(ABSORBERS, counted.shape[1]), dim=1).values.sum(1)
    r = torch.minimum(T, P - M)
    share = (r / (r + M)).nan_to_num(0.0).clamp(0, 1)
    fraction = torch.where(M <= 0, torch.ones_like(share), share)
    fraction = torch.where((M >= P) | (T < PROPORTION * P) | (P <= 0), torch.zeros_like(share), fraction)
    top, which = parts.max(1)
    silent = (codes[:, latents] < 1e-8).all(1)
    full = silent & (cosine[which] >= FULL_COSINE) & (P > 0) & (top >= PROPORTION * P)
    return fraction, full


def f1_of(said: Bool[Tensor, " N"], truth: Bool[Tensor, " N"]) -> float:
    """F1 of yes; 0 where nothing is right."""
    right = float((said & truth).sum())
    return 2 * right / float(said.sum() + truth.sum()) if right else 0.0


def _letter(
    c: int, latents: Tensor, probe: Tensor, x: Tensor, codes: Tensor, W_dec: Tensor
) -> dict[str, str | float | int]:
    fraction, full = absorbed(probe, x, codes, W_dec, latents)
    return {
        "first_letter": LETTERS[c],
        "mean_absorption_fraction": float(fraction.double().mean()),
        "full_absorption_rate": float(full.double().mean()),
        "num_full_absorption": int(full.sum()),
        "num_probe_true_positives": len(x),
        "num_split_features": len(latents),
    }


def _summary(details: Sequence[Mapping[str, str | float | int]]) -> Metrics:
    found: Metrics = {}
    names = {
        "absorption_fraction_score": "mean_absorption_fraction",
        "full_absorption_score": "full_absorption_rate",
        "num_split_features": "num_split_features",
    }
    for name, column in names.items():
        values = [float(row[column]) for row in details]
        found[f"mean_{name}"] = fmean(values) if len(values) > 1 else None
        found[f"std_dev_{name}"] = stdev(values) if len(values) > 1 else None
    return found


def _one_hot(letters: Int[Tensor, " N"]) -> Bool[Tensor, "N C"]:
    return letters[:, None] == torch.arange(len(LETTERS))


def _data_sets(config: SuiteConfig) -> list[WordSet]:
    return [WordSet(config=PRESETS[config.preset])]


def _prepare(site: SiteSuite) -> SpelledWords:
    (data,) = _data_sets(site.config)
    return probe_letters(WordActivations(**site.load(data.key)), site.config.seed)


def _evaluate(subject: Subject, shared: SpelledWords) -> Result:
    config = subject.site.config
    return evaluate(shared, subject.sae, PRESETS[config.preset], config.seed)


EVALUATION = Evaluation(
    KIND, PRESETS, _evaluate, _prepare, _data_sets, saebench=SaebenchFile("absorption", demanded=("mean",))
)
