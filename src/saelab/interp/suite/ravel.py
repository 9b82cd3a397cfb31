"""RAVEL: can some latents be exchanged between two entities so that one attribute changes and the others stay?

For an attribute a mask over latents is trained (MDBM): at the entity's last token of a base prompt

    f = (1 - s) f_base + s f_source,  s = sigmoid(z / T), T from 1 down to 1e-4;  in test s = 1[z > 0];  x := decode(f)

so that the model answers with the source's value where the prompt asks for that attribute (cause) and with the base's
where it asks for another (isolation). cause and isolation are shares of held-out pairs answered right, disentanglement
is their mean. Source: SAEBench `ravel` (0.6.0), Huang et al. 2402.17700. Texts are read in facts.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.seeds import numpy_generator
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.facts import Facts, FactSet, RavelConfig
from saelab.interp.suite.result import Metrics, Result, averaged
from saelab.saes.base import Sae

KIND = "ravel"
DEVIATIONS = (
    "an answer is judged by its first token (upstream writes six and matches words)",
    "values that share their first token are never paired (upstream counts such pairs as isolation)",
    "as many isolation pairs as cause pairs, from the same facts the model knows",
)


PRESETS: Mapping[Preset, RavelConfig] = {
    "paper": RavelConfig(),
    "small": RavelConfig(entities=80, templates=5, num_pairs_per_attribute=60),
    "tiny": RavelConfig(entities=8, templates=1, num_pairs_per_attribute=16, num_epochs=1, least_pairs=8),
}


@runtime_checkable
class Answering(Protocol):
    """The part of a language model that is needed: the pass from a site on, differentiable in the activations."""

    def run_from(
        self, hidden: Float[Tensor, "B T D"], site: str, *, mask: Bool[Tensor, "B T"] | None = None, last: bool = False
    ) -> Float[Tensor, "B _ V"]: ...


@dataclass(frozen=True)
class Pairs:
    """Rows of `Facts`: base and source, the token that is right after the exchange, and whether it is a cause pair."""

    base: Int[np.ndarray, " P"]
    source: Int[np.ndarray, " P"]
    target: Int[np.ndarray, " P"]
    cause: Bool[np.ndarray, " P"]

    def take(self, rows: Int[np.ndarray, " Q"]) -> "Pairs":
        """Some of them."""
        return Pairs(self.base[rows], self.source[rows], self.target[rows], self.cause[rows])


def pairs_of(facts: Facts, attribute: int, count: int, *names: str | int) -> Pairs:
    """Up to `count` cause pairs of an attribute and as many isolation pairs of the others, mixed."""
    generator = numpy_generator("ravel pairs", *names, attribute)
    own = _drawn(facts, (facts.attribute == attribute).numpy(), count, generator)
    others = [
        _drawn(facts, (facts.attribute == b).numpy(), count, generator)
        for b in sorted(set(facts.attribute.tolist()) - {attribute})
    ]
    other = np.concatenate([np.zeros((0, 2), np.int64), *others])
    other = other[generator.permutation(len(other))[: len(own)]]
    base, source = np.concatenate([own, other]).T
    cause = np.arange(len(base)) < len(own)
    answer = facts.answer.numpy()
    made = Pairs(base, source, np.where(cause, answer[source], answer[base]), cause)
    return made.take(generator.permutation(len(base)))


def evaluate(lm: Answering, site: str, facts: Facts, sae: Sae, config: RavelConfig, seed: int) -> Result:
    """The scores of one SAE; None, with a reason, where the model knows too few facts."""
    rows: dict[str, Metrics] = {}
    with torch.no_grad():  # not inference mode: gradients go through what is mixed of these codes
        at = facts.hidden[torch.arange(len(facts.position)), facts.position].float()
        codes = sae.encode(at) if len(at) else torch.zeros(0, sae.cfg.d_sae)
    exchange = Exchange(lm, site, facts, sae, codes)
    for i, name in enumerate(config.attributes):
        pairs = pairs_of(facts, i, config.num_pairs_per_attribute, seed, config.entity)
        if len(pairs.base) < config.least_pairs or pairs.cause.all():
            continue
        cut = int(config.train_test_split * len(pairs.base))
        train, test = pairs.take(np.arange(cut)), pairs.take(np.arange(cut, len(pairs.base)))
        chosen = train_mask(exchange, train, config)
        right = exchange.answers(test, chosen.float()) == torch.from_numpy(test.target)
        cause = torch.from_numpy(test.cause)
        if bool(cause.any()) and not bool(cause.all()):
            scores = float(right[cause].float().mean()), float(right[~cause].float().mean())
            rows[f"{config.entity}_{name}"] = {
                "cause_score": scores[0],
                "isolation_score": scores[1],
                "disentangle_score": sum(scores) / 2,
            }
    means = averaged(list(rows.values()))
    metrics: Metrics = {
        "disentanglement_score": means.get("disentangle_score"),
        "cause_score": means.get("cause_score"),
        "isolation_score": means.get("isolation_score"),
    }
    settings = config.model_dump() | {"n_facts": len(facts.position), "deviations": list(DEVIATIONS)}
    reason = None if rows else f"the model knows {len(facts.position)} of the facts asked, too few to pair"
    return Result(KIND, {KIND: metrics}, settings, unstructured={f"{config.entity}_results": rows}, reason=reason)


@dataclass(frozen=True)
class Exchange:
    """One SAE on a site's facts: codes [N, F] at the entities, and what the model says when some are exchanged."""

    lm: Answering
    site: str
    facts: Facts
    sae: Sae
    codes: Float[Tensor, "N F"]

    def logits(self, pairs: Pairs, share: Float[Tensor, " F"]) -> Float[Tensor, "B V"]:
        """Next-token logits of the base prompts with a share of each latent taken from the source."""
        mixed = (1 - share) * self.codes[pairs.base] + share * self.codes[pairs.source]
        hidden = self.facts.hidden[pairs.base].float()
        where = torch.zeros(hidden.shape[:2], dtype=torch.bool)
        where[torch.arange(len(hidden)), self.facts.position[pairs.base]] = True
        changed = torch.where(where[..., None], self.sae.decode(mixed)[:, None], hidden)
        return self.lm.run_from(changed, self.site, mask=self.facts.mask[pairs.base], last=True)[:, -1]

    def answers(self, pairs: Pairs, share: Float[Tensor, " F"]) -> Int[Tensor, " P"]:
        """The most likely tokens."""
        with torch.no_grad():
            rows = np.arange(len(pairs.base))
            parts = [pairs.take(rows[start : start + 32]) for start in range(0, len(rows), 32)]
            return torch.cat([self.logits(part, share).argmax(-1).cpu() for part in parts])


def train_mask(exchange: Exchange, pairs: Pairs, config: RavelConfig) -> Bool[Tensor, " F"]:
    """The latents whose exchange carries the attribute."""
    z = torch.zeros(exchange.codes.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=config.learning_rate)
    rows, size = np.arange(len(pairs.base)), config.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    temperatures = np.logspace(0, -4, len(batches) * config.num_epochs)
    for step, temperature in enumerate(temperatures):
        part = pairs.take(batches[step % len(batches)])
        logits = exchange.logits(part, torch.sigmoid(z / float(temperature)))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.target))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return z.detach() > 0


def _drawn(facts: Facts, keep: np.ndarray, count: int, generator: np.random.Generator) -> Int[np.ndarray, "P 2"]:
    """(base, source) rows with different answers."""
    rows = np.flatnonzero(keep)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    made = generator.choice(rows, size=(4 * count, 2))
    answer = facts.answer.numpy()
    return made[answer[made[:, 0]] != answer[made[:, 1]]][:count]


def _data_sets(config: SuiteConfig) -> list[FactSet]:
    return [FactSet(data=config.ravel, config=PRESETS[config.preset])] if config.ravel else []


def _prepare(site: SiteSuite) -> Facts:
    (data,) = _data_sets(site.config)
    return Facts(**site.load(data.key))


def _evaluate(subject: Subject, shared: Facts) -> Result:
    text, config = subject.site.text, subject.site.config
    return evaluate(text.lm, text.clean.site, shared, subject.sae, PRESETS[config.preset], config.seed)


EVALUATION = Evaluation(
    KIND, PRESETS, _evaluate, _prepare, _data_sets, saebench=SaebenchFile("ravel", demanded=("ravel",))
)
