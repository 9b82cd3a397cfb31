"""Spurious correlation removal: does ablating a few latents take a spurious concept out of a biased probe?

Texts have a concept A and an attribute B. Probe C is trained where the two coincide (a+b+ against a-b-), so it learns
both; probes A and B are trained on balanced texts. Latents with the largest unsigned effect on probe B are ablated
(ablation.py) and C is tested on concept A (dir1); those of A, and C tested on B (dir2):

    scr = (accuracy_after - accuracy_C) / (accuracy_oracle - accuracy_C)       (0 where the denominator is below 0.001)

the oracle being the probe of the tested concept itself. The headline is dir1 where C was worse at A than at B, dir2
where it was worse at B, and absent where they are equal. Source: SAEBench `scr` (0.6.0), Karvonen et al. 2411.18895.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.progress import Progress
from saelab.core.seeds import numpy_generator
from saelab.interp.suite import labelled
from saelab.interp.suite.ablation import ablated, effects_on, strongest
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import Tensors, TextSet, all_tokens, plain
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.labelled import LabelledData
from saelab.interp.suite.probes import SHIFT_PROBE, LinearProbe, Split, fit_probe, mean_difference
from saelab.interp.suite.result import Metrics, Result, averaged
from saelab.lm.model import LanguageModel

KIND = "scr"
ALL_N = (2, 5, 10, 20, 50, 100, 500)
DEVIATIONS = ("rows of a quadrant drawn at random, not the first", "no leak from padded positions", "named generators")


class PairConfig(Config):
    """A crossed set with the two values of its label and of its attribute: a+b+ and a-b- are the confounded corners."""

    data: str = Field(description="A crossed set (labelled.py) or path:table with columns text, label, attribute.")
    concept: tuple[str, str] = Field(description="(a+, a-)")
    attribute: tuple[str, str] = Field(description="(b+, b-)")


class ScrConfig(Config):
    """Pairs and sizes; sizes are of one quadrant (upstream's train_set_size // 4)."""

    pairs: tuple[PairConfig, ...] = Field(min_length=1, description="What is confounded with what.")
    n_train: int = Field(default=1000, ge=2, description="Train texts of a quadrant.")
    n_test: int = Field(default=250, ge=2, description="Test texts of a quadrant.")
    context_length: int = Field(default=128, ge=8, description="Tokens of a text that are read, BOS included.")
    n_values: tuple[int, ...] = Field(default=ALL_N, description="Numbers of latents that are ablated.")


ALIVE = PairConfig(data="alive_sex", concept=("True", "False"), attribute=("female", "male"))
SWAPPED = PairConfig(data="alive_sex", concept=("True", "False"), attribute=("male", "female"))
PRESETS: Mapping[Preset, ScrConfig] = {
    # The rarest corner has 95 texts, of which `SWAPPED` needs twice what it asks for.
    "paper": ScrConfig(pairs=(ALIVE, SWAPPED), n_train=35, n_test=12),
    "small": ScrConfig(pairs=(ALIVE,), n_train=63, n_test=32, context_length=64, n_values=(2, 5, 10, 20, 50)),
    "tiny": ScrConfig(pairs=(ALIVE,), n_train=8, n_test=4, context_length=16, n_values=(2, 5)),
}


@dataclass(frozen=True)
class Confounded:
    """The three tasks over one set of texts: concept A, attribute B, and both together (C)."""

    name: str
    concept: Split
    attribute: Split
    both: Split


@dataclass(frozen=True)
class BiasedProbes:
    """Probes of A, B and C with C's clean accuracy at A and B, and the oracles'; shared by all SAEs of a site."""

    tasks: Confounded
    concept: LinearProbe
    attribute: LinearProbe
    biased: LinearProbe
    biased_at: tuple[float, float]
    oracle: tuple[float, float]


def confound(
    data: LabelledData, n_train: int, n_test: int, seed: int, *, concept: tuple[str, str], attribute: tuple[str, str]
) -> tuple[LabelledData, Confounded]:
    """Quadrants of `n_train` and `n_test` texts each. concept: (a+, a-); attribute: (b+, b-).

    a+b+ and a-b- need twice as many. Raises `UserError` where a quadrant is too small.
    """
    rows: dict[tuple[int, int], list[np.ndarray]] = {}
    chosen: list[int] = []
    for a, label in enumerate(concept):
        for b, value in enumerate(attribute):
            wanted = [n_train, n_test] if a != b else [2 * n_train, 2 * n_test]
            found = numpy_generator(seed, "quadrant", data.name, label, value).permutation(data.rows(label, value))
            if len(found) < sum(wanted):
                raise UserError(
                    f"{data.name} has {len(found)} texts with {label} and {value}; {sum(wanted)} are needed.",
                    hint="Ask for smaller sets, or swap the values of the attribute.",
                )
            start = len(chosen)
            chosen += found[: sum(wanted)].tolist()
            rows[a, b] = [start + np.arange(wanted[0]), start + wanted[0] + np.arange(wanted[1])]

    def split(positive: Sequence[tuple[int, int]], negative: Sequence[tuple[int, int]], times: int) -> Split:
        parts = []
        for side, n in ((0, n_train), (1, n_test)):
            groups = [
                np.concatenate([rows[q][side][: times * n] for q in quadrants]) for quadrants in (positive, negative)
            ]
            parts += [np.concatenate(groups), np.arange(sum(map(len, groups))) < len(groups[0])]
        return Split(*parts)

    tasks = Confounded(
        f"{data.name}_scr_{concept[0]}_{concept[1]}",
        concept=split([(0, 0), (0, 1)], [(1, 0), (1, 1)], 1),
        attribute=split([(0, 0), (1, 0)], [(0, 1), (1, 1)], 1),
        both=split([(0, 0)], [(1, 1)], 2),
    )
    return data.take(chosen), tasks


def probe_confounded(x: Float[Tensor, "N D"], tasks: Confounded, *names: str | int) -> BiasedProbes:
    """Train the three probes on pooled activations."""
    splits = {"concept": tasks.concept, "attribute": tasks.attribute, "both": tasks.both}
    concept, attribute, both = (
        fit_probe(x, split, SHIFT_PROBE, *names, "scr", tasks.name, key) for key, split in splits.items()
    )
    return with_probes(x, tasks, concept, attribute, both)


def with_probes(
    x: Float[Tensor, "N D"], tasks: Confounded, concept: LinearProbe, attribute: LinearProbe, both: LinearProbe
) -> BiasedProbes:
    """The tasks with given probes, and the accuracies that SCR compares with."""
    return BiasedProbes(
        tasks,
        concept=concept,
        attribute=attribute,
        biased=both,
        biased_at=(both.tested(x, tasks.concept), both.tested(x, tasks.attribute)),
        oracle=(concept.tested(x, tasks.concept), attribute.tested(x, tasks.attribute)),
    )


def remove(
    probed: BiasedProbes,
    x: Float[Tensor, "N D"],
    codes: Float[Tensor, "N F"],
    W_dec: Float[Tensor, "F D"],
    n_values: Sequence[int],
) -> Metrics:
    """`scr_dir1_threshold_{n}`, `scr_metric_threshold_{n}`, `scr_dir2_threshold_{n}` of one SAE on one pair."""
    tasks, found = probed.tasks, {}
    # dir1: take B out, test on A; dir2: take A out, test on B
    ways = ((probed.attribute, tasks.attribute, tasks.concept), (probed.concept, tasks.concept, tasks.attribute))
    for direction, (removed, data, tested) in enumerate(ways):
        effects = effects_on(removed, mean_difference(codes[data.train], data.train_y), W_dec, signed=False)
        before, oracle = probed.biased_at[direction], probed.oracle[direction]
        for n in n_values:
            changed = ablated(x, codes, W_dec, strongest(effects, n))
            after = probed.biased.tested(changed, tested)
            room = oracle - before
            found[f"scr_dir{direction + 1}_threshold_{n}"] = (after - before) / room if room >= 0.001 else 0.0
    at_concept, at_attribute = probed.biased_at
    for n in n_values:
        if at_concept != at_attribute:
            chosen = 1 if at_concept < at_attribute else 2
            found[f"scr_metric_threshold_{n}"] = found[f"scr_dir{chosen}_threshold_{n}"]
    return found


def evaluation(by_pair: Mapping[str, Metrics], config: Mapping[str, object]) -> Result:
    """Each key averaged over the pairs that have it."""
    names = [f"scr_{part}_threshold_{n}" for n in ALL_N for part in ("dir1", "metric", "dir2")]
    means = averaged(list(by_pair.values()))
    details = [{"dataset_name": f"{pair}_results", **{n: row.get(n) for n in names}} for pair, row in by_pair.items()]
    metrics = {"scr_metrics": {n: means.get(n) for n in names}}
    return Result(KIND, metrics, {**config, "deviations": list(DEVIATIONS)}, details)


class PairSet(TextSet):
    """The texts of a crossed set in its four corners, all tokens."""

    kind: Literal["pair"] = "pair"
    pair: PairConfig
    n_train: int
    n_test: int
    context: int

    @property
    def key(self) -> str:
        """Its name on disk."""
        values = "-".join((*self.pair.concept, *self.pair.attribute))
        return f"pair.{plain(self.pair.data)}.{values}.{self.n_train}.{self.n_test}.{self.context}"

    def tasks(self, seed: int) -> tuple[LabelledData, Confounded]:
        """The texts in the order in which they are read, and the three tasks over them."""
        data = labelled.load_labelled(self.pair.data)
        pair = self.pair
        return confound(data, self.n_train, self.n_test, seed, concept=pair.concept, attribute=pair.attribute)

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of all tokens, by site."""
        return all_tokens(lm, self.tasks(seed)[0].texts, sites, self.context, progress)


def _data_sets(config: SuiteConfig) -> list[PairSet]:
    c = PRESETS[config.preset]
    return [PairSet(pair=p, n_train=c.n_train, n_test=c.n_test, context=c.context_length) for p in c.pairs]


def _prepare(site: SiteSuite) -> list[BiasedProbes]:
    """The probes of the LM on each crossed set."""
    texts = [site.texts(data) for data in _data_sets(site.config)]
    return [probe_confounded(t.x, t.tasks, site.config.seed) for t in texts]


def _evaluate(subject: Subject, shared: Sequence[BiasedProbes]) -> Result:
    site, W_dec, rows = subject.site, subject.sae.W_dec, {}
    config = PRESETS[site.config.preset]
    for data, probed in zip(_data_sets(site.config), shared, strict=True):
        x, codes = site.texts(data).x, subject.pooled(data)
        rows[probed.tasks.name] = remove(probed, x, codes, W_dec, config.n_values)
    return evaluation(rows, config.model_dump())


EVALUATION = Evaluation(KIND, PRESETS, _evaluate, _prepare, _data_sets, saebench=SaebenchFile("scr"))
