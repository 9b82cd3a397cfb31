"""How an evaluation is declared, and what it is given: the data of a site once, then one SAE after another.

    EVALUATION = Evaluation(KIND, PRESETS, data_sets=..., prepare=..., evaluate=..., saebench=...)

at the end of an evaluation's file is all that the suite needs of it. Data sets that several evaluations read, and the
codes of an SAE on them, are made once. This file must never know an evaluation.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import polars as pl
from jaxtyping import Float
from torch import Tensor

from saelab.core.config import Config
from saelab.core.records import Description, Term
from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.run import InterpSite
from saelab.interp.suite.catalogue import CATALOGUE
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import DataSet, TextSet, text_activations
from saelab.interp.suite.pooled import TextActivations, pool_activations, pool_codes
from saelab.interp.suite.result import Result
from saelab.judges.client import Judge
from saelab.saes.base import Sae

Load = Callable[[str], Mapping[str, Tensor]]


@dataclass(frozen=True)
class SaebenchFile:
    """Where SAEBench keeps an evaluation's files, and what its schema demands of them.

    demanded: categories whose every metric must be a number. filled: metrics ("*": all) for which upstream itself
    writes -1 where there is none.
    """

    folder: str
    demanded: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()


@dataclass(frozen=True)
class PooledTexts:
    """Texts as the LM saw them at a site: the activations of all tokens, their mean for each text, and the tasks."""

    read: TextActivations
    x: Float[Tensor, "N D"]
    tasks: Any


@dataclass(frozen=True)
class SiteSuite:
    """What the SAEs of one site share. shared: what each evaluation prepared; load(key): a data set's tensors."""

    config: SuiteConfig
    text: InterpSite
    load: Load
    shared: dict[str, Any] = field(default_factory=dict)
    _texts: dict[str, PooledTexts] = field(default_factory=dict)

    def texts(self, data: TextSet) -> PooledTexts:
        """The texts of a data set, with its tasks."""
        if data.key not in self._texts:
            read = text_activations(self.load(data.key))
            self._texts[data.key] = PooledTexts(read, pool_activations(read), data.tasks(self.config.seed)[1])
        return self._texts[data.key]


@dataclass(frozen=True)
class Subject:
    """One SAE under evaluation. features: its table of the interp stage, with the descriptions that are judged."""

    site: SiteSuite
    sae: Sae
    features: pl.DataFrame
    judge: Judge
    _pooled: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def codes(self) -> Codes:
        """Its active codes on the text of the site."""
        text = self.site.text
        return encode_codes(self.sae.encode, text.rows, text.places)

    @cached_property
    def described(self) -> dict[int, Description]:
        """The descriptions of the features that detection has tested."""
        rows = self.features.filter(pl.col("state") == "ok").iter_rows(named=True)
        return {row["feature"]: Description(row["description"], tuple(Term(**t) for t in row["terms"])) for row in rows}

    @cached_property
    def _left(self) -> Counter[str]:
        config = self.site.config
        return Counter(r.key for kind in config.kinds for r in evaluation_of(kind).data_sets(config))

    def pooled(self, data: TextSet) -> Float[Tensor, "N F"]:
        """The mean of its codes over each text of a data set, kept until the last evaluation has asked for it."""
        key = data.key
        codes = self._pooled.pop(key, None)
        if codes is None:
            codes = pool_codes(self.sae, self.site.texts(data).read)
        self._left[key] -= 1
        if self._left[key] > 0:
            self._pooled[key] = codes
        return codes


def _no_data_sets(config: SuiteConfig) -> Sequence[DataSet]:
    del config
    return ()


def _nothing(site: SiteSuite) -> None:
    del site


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as the suite knows it.

    data_sets(config): what the language model has to read for it. prepare(site): what the SAEs of a site share, probes
    and baselines of the LM. evaluate(subject, shared): the result of one SAE. saebench: None where SAEBench has none.
    """

    kind: str
    presets: Mapping[Preset, Config]
    evaluate: Callable[[Subject, Any], Result]
    prepare: Callable[[SiteSuite], Any] = _nothing
    data_sets: Callable[[SuiteConfig], Sequence[DataSet]] = _no_data_sets
    saebench: SaebenchFile | None = None


def evaluation_of(kind: str) -> Evaluation:
    """An evaluation of the catalogue, loaded."""
    return import_module(CATALOGUE[kind].module).EVALUATION


def data_sets_of(config: SuiteConfig) -> tuple[DataSet, ...]:
    """What the language model has to read for a suite, each once."""
    found = [r for kind in config.kinds for r in evaluation_of(kind).data_sets(config)]
    return tuple({r.key: r for r in found}.values())
