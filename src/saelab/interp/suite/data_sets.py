"""What the evaluations have the language model read: each data set once, at all sites, kept as tensors.

A data set is a small config that names its data; `read` runs the LM over it and gives tensors by site. Every SAE of
every site then costs its own encoding alone. One that one evaluation alone needs is in that evaluation's file;
here is what all are, and the one that several share. This file must never know an SAE.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from saelab.core.config import Config
from saelab.core.progress import SILENT, Progress
from saelab.interp.suite import labelled
from saelab.interp.suite.labelled import LabelledData, OneVsRest
from saelab.interp.suite.pooled import TextActivations, read_ids
from saelab.lm.model import LanguageModel

Tensors = dict[str, Tensor]


class DataSet(Config, ABC):
    """A data set that the language model reads."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Its name on disk."""

    @abstractmethod
    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """What is kept of it, by site."""


class TextSet(DataSet):
    """Labelled texts of which all tokens are kept, and the tasks over them."""

    @abstractmethod
    def tasks(self, seed: int) -> tuple[LabelledData, Any]:
        """The texts in the order in which they are read, and the tasks over them."""


class ClassSet(TextSet):
    """The texts of a labelled set, one class against the rest, all tokens. n: texts per class."""

    kind: Literal["classes"] = "classes"
    name: str
    n_train: int
    n_test: int
    context: int

    @property
    def title(self) -> str:
        """How its rows are named."""
        return plain(self.name)

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"classes.{self.title}.{self.n_train}.{self.n_test}.{self.context}"

    def tasks(self, seed: int) -> tuple[LabelledData, list[OneVsRest]]:
        """The texts in the order in which they are read, and the tasks over them."""
        return labelled.one_against_rest(labelled.load_labelled(self.name), self.n_train, self.n_test, seed)

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of all tokens, by site."""
        return all_tokens(lm, self.tasks(seed)[0].texts, sites, self.context, progress)


def class_sets(names: Sequence[str], train: int, test: int, context: int) -> list[ClassSet]:
    """Labelled sets by name. train, test: totals of a balanced task, half of them of the class."""
    return [ClassSet(name=name, n_train=train // 2, n_test=test // 2, context=context) for name in names]


def all_tokens(
    lm: LanguageModel, texts: Sequence[str], sites: Sequence[str], context: int, progress: Progress = SILENT
) -> dict[str, Tensors]:
    """The activations of all tokens of the texts, by site; `text_activations` reads them back."""
    found = read_ids(lm, lm.tokenize(texts), sites, context=context, progress=progress)
    return {
        site: {"rows": read.rows, "text": read.text, "n_texts": torch.tensor(read.n_texts)}
        for site, read in found.items()
    }


def text_activations(tensors: Mapping[str, Tensor]) -> TextActivations:
    """What `all_tokens` kept."""
    return TextActivations(tensors["rows"], tensors["text"], int(tensors["n_texts"]))


def plain(name: str) -> str:
    """A name fit for a file."""
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in name)[-60:]
