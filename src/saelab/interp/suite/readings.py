"""What the evaluations have the language model read: each data set once, at all sites, kept as tensors.

A reading is a small config that names its data; `read` runs the LM over it and gives tensors by site, `TextActivations`
and `Words` are rebuilt from them. Every SAE of every site then costs its own encoding alone. Which reading an
evaluation needs is said by suite.py. This file must never know an SAE.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import numpy_generator
from saelab.interp.suite import absorption, ravel, sae_probes, scr
from saelab.interp.suite.absorption import Words
from saelab.interp.suite.facts import read_facts
from saelab.interp.suite.labelled import LabelledTexts, Task, load_labelled, one_against_rest
from saelab.interp.suite.pooled import TextActivations, read_ids
from saelab.interp.suite.unlearning import Contexts
from saelab.interp.suite.words import read_words
from saelab.lm.model import LanguageModel
from saelab.text.corpora import Document
from saelab.text.pack import pack_for

Tensors = dict[str, Tensor]


class ClassReading(Config):
    """The texts of a labelled set, one class against the rest, all tokens. n: texts per class."""

    kind: Literal["classes"] = "classes"
    name: str
    n_train: int
    n_test: int
    context: int

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"classes.{_plain(self.name)}.{self.n_train}.{self.n_test}.{self.context}"

    def tasks(self, seed: int) -> tuple[LabelledTexts, list[Task]]:
        """The texts in the order in which they are read, and the tasks over them."""
        return one_against_rest(load_labelled(self.name), self.n_train, self.n_test, seed)

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of all tokens, by site."""
        return _texts(lm, self.tasks(seed)[0].texts, sites, self.context, progress)


class PairReading(Config):
    """The texts of a crossed set in its four corners, all tokens."""

    kind: Literal["pair"] = "pair"
    pair: scr.PairConfig
    n_train: int
    n_test: int
    context: int

    @property
    def key(self) -> str:
        """Its name on disk."""
        values = "-".join((*self.pair.concept, *self.pair.attribute))
        return f"pair.{_plain(self.pair.data)}.{values}.{self.n_train}.{self.n_test}.{self.context}"

    def tasks(self, seed: int) -> tuple[LabelledTexts, scr.Confounded]:
        """The texts in the order in which they are read, and the three tasks over them."""
        data = load_labelled(self.pair.data)
        pair = self.pair
        return scr.confound(data, self.n_train, self.n_test, seed, concept=pair.concept, attribute=pair.attribute)

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of all tokens, by site."""
        return _texts(lm, self.tasks(seed)[0].texts, sites, self.context, progress)


class SetsReading(Config):
    """The sets of sae-probes, the last token of each text."""

    kind: Literal["sets"] = "sets"
    config: sae_probes.SaeProbesConfig

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"sets.{self.config.digest()[:12]}"

    def tasks(self, seed: int) -> tuple[list[sae_probes.BinaryTask], list[str]]:
        """The tasks in the order in which they are read, and the sets that cannot be tasks."""
        made = [(name, sae_probes.task_of(load_labelled(name), self.config, seed)) for name in self.config.names]
        return [t for _, t in made if t is not None], [name for name, t in made if t is None]

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of last tokens, by site: one tensor per set."""
        tasks, _ = self.tasks(seed)
        ids = lm.tokenize([text for task in tasks for text in task.texts])
        context = self.config.context
        found = read_ids(lm, ids, sites, context=context, cut="left", last=True, progress=progress)
        sizes = [len(task.texts) for task in tasks]
        return {
            site: {t.name: part.clone() for t, part in zip(tasks, read.rows.split(sizes), strict=True)}
            for site, read in found.items()
        }


class WordsReading(Config):
    """The words of the vocabulary in spelling prompts."""

    kind: Literal["words"] = "words"
    config: absorption.AbsorptionConfig

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"words.{self.config.words}.{self.config.icl_examples}"

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations at the words, by site."""
        found = read_words(lm, sites, self.config, seed=seed, progress=progress)
        return {site: dict(vars(words)) for site, words in found.items()}


class TopicReading(Config):
    """The texts of one class, packed into contexts."""

    kind: Literal["topic"] = "topic"
    topic: tuple[str, str]
    contexts: int
    context: int = 128

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"topic.{_plain(self.topic[0])}.{_plain(self.topic[1])}.{self.contexts}.{self.context}"

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Tokens, activations and the positions that count, by site."""
        del progress
        data = load_labelled(self.topic[0])
        rows = numpy_generator(seed, "topic", *self.topic).permutation(data.rows(self.topic[1]))
        documents = [Document(str(i), data.texts[i]) for i in rows.tolist()]
        packed = pack_for(lm, documents, context=self.context, n_contexts=self.contexts)
        tokens = packed.tokens.long()
        with torch.inference_mode():
            parts = [lm.run_to(batch, sites) for batch in tokens.split(8)]
        kept = ~torch.isin(tokens, torch.tensor(sorted(lm.special_ids)))
        hidden = {site: torch.cat([p[site].to("cpu", torch.bfloat16) for p in parts]) for site in sites}
        return {site: {"tokens": tokens, "hidden": hidden[site], "kept": kept} for site in sites}


class FactsReading(Config):
    """RAVEL's facts that the model knows. data: a reference to the folder of its tables."""

    kind: Literal["facts"] = "facts"
    data: str
    config: ravel.RavelConfig

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"facts.{self.config.entity}.{self.config.digest()[:12]}"

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of the prompts, by site."""
        found = read_facts(lm, self.data, sites, self.config, seed=seed, progress=progress)
        return {site: dict(vars(facts)) for site, facts in found.items()}


Reading = Annotated[
    ClassReading | PairReading | SetsReading | WordsReading | TopicReading | FactsReading, Field(discriminator="kind")
]


class ReadingOf(Config):
    """A reading as plain data and back (cells hold plain data)."""

    reading: Reading


def text_activations(tensors: Mapping[str, Tensor]) -> TextActivations:
    """What `ClassReading` and `PairReading` kept."""
    return TextActivations(tensors["rows"], tensors["text"], int(tensors["n_texts"]))


def words_of(tensors: Mapping[str, Tensor]) -> Words:
    """What `WordsReading` kept."""
    return Words(**dict(tensors))


def contexts_of(tensors: Mapping[str, Tensor]) -> Contexts:
    """What `TopicReading` kept."""
    return Contexts(tensors["tokens"], tensors["hidden"].float(), tensors["kept"])


def _texts(
    lm: LanguageModel, texts: Sequence[str], sites: Sequence[str], context: int, progress: Progress = SILENT
) -> dict[str, Tensors]:
    found = read_ids(lm, lm.tokenize(texts), sites, context=context, progress=progress)
    return {
        site: {"rows": read.rows, "text": read.text, "n_texts": torch.tensor(read.n_texts)}
        for site, read in found.items()
    }


def _plain(name: str) -> str:
    """A name fit for a file."""
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in name)[-60:]
