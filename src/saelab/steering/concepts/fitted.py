"""Every method's direction of every concept, and how it detects: fitted once, kept on disk after every concept.

- directions.safetensors  one vector per "number/method", the controls of equal norm included
- detection.parquet       concept, concept_text, method, auroc_easy, auroc_all, hard_accuracy, n_positive, n_negative,
                          n_hard, state
- fit.json                what the two were made with: another setting starts anew
"""

from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from saelab.core.config import digest_of
from saelab.core.errors import UserError
from saelab.saes.base import Sae
from saelab.steering.concepts.axbench import Concept
from saelab.steering.concepts.config import ConceptInputs, ConceptsConfig, fitting_of
from saelab.steering.concepts.detection import BAG, POSITIVE, bag_of_words, detect, direction_scores
from saelab.steering.concepts.directions.catalogue import method_of
from saelab.steering.concepts.directions.sae_auroc import largest_codes
from saelab.steering.concepts.examples import Examples, TextRows, joined, read
from saelab.steering.direction import Direction
from saelab.steering.directions.equal_norm import equal_norm_direction, equal_norm_feature
from saelab.steering.export import load_directions, save_directions
from saelab.steering.methods import RANDOM_DIRECTION, RANDOM_FEATURE
from saelab.store.artefacts import Record
from saelab.store.folders import ConceptsFolder
from saelab.store.resumable import Resumable
from saelab.store.tables import write_table

DETECTION = {
    "concept": pl.Int64, "concept_text": pl.String, "method": pl.String, "auroc_easy": pl.Float64,
    "auroc_all": pl.Float64, "hard_accuracy": pl.Float64, "n_positive": pl.Int64, "n_negative": pl.Int64,
    "n_hard": pl.Int64, "state": pl.String,
}  # fmt: skip


class Fitted:
    """Directions and detection scores so far, kept on disk after every concept."""

    def __init__(self, config: ConceptsConfig, inputs: ConceptInputs, folder: Path):
        self.config, self.inputs, self.folder = config, inputs, ConceptsFolder(folder)
        self.directions: dict[tuple[int, str], Direction] = {}
        self.detection = pl.DataFrame(schema=DETECTION)
        self._negatives: dict[str, TextRows] = {}
        self.using = fitting_of(config, inputs)
        self._open(self.folder.fit)

    def fit(self, concept: Concept) -> None:
        """Fit and detect every method on one concept, unless a former call did."""
        if concept.id in self.detection["concept"]:
            return
        examples = self._examples(concept)
        texts = self.inputs.data.detection(concept).first(self.config.n_detect)
        rows = read(self.inputs.lm, self.config.site, texts.pairs, max_tokens=self.config.max_tokens)
        table: list[tuple[Any, ...]] = []
        for method in self.config.methods:
            try:
                direction = method_of(method)(examples, self.using)
            except UserError as error:
                table.append((concept.id, concept.text, method, *[None] * 6, error.message))
                continue
            self.directions[concept.id, method] = direction
            found = detect(_scores(direction, rows, self.inputs.sae), texts.kinds)
            table.append((concept.id, concept.text, method, *astuple(found), "ok"))
        answers, labels = [p.answer for p in examples.pairs], examples.positive.tolist()
        words = bag_of_words(answers, labels, [p.answer for p in texts.pairs])
        table.append((concept.id, concept.text, BAG, *astuple(detect(words, texts.kinds)), "ok"))
        self._controls(concept)
        self.detection = self.detection.vstack(pl.DataFrame(table, DETECTION, orient="row"))
        named = {f"{i}/{method}": d for (i, method), d in self.directions.items()}
        self.held.write(self.folder.directions, lambda path: save_directions(path, named))
        self.held.write(self.folder.detection.path, lambda path: write_table(path, self.detection))

    def _examples(self, concept: Concept) -> Examples:
        """The concept's training texts; the negatives of a genre are read once."""
        lm, site, texts = self.inputs.lm, self.config.site, self.inputs.data.training(concept)
        positive = np.array([kind == POSITIVE for kind in texts.kinds])
        shown = [p for p, k in zip(texts.pairs, positive, strict=True) if k][: self.config.n_train]
        others = [p for p, k in zip(texts.pairs, positive, strict=True) if not k][: self.config.n_train]
        if concept.genre not in self._negatives:
            self._negatives[concept.genre] = read(lm, site, others, max_tokens=self.config.max_tokens)
        rows = joined(read(lm, site, shown, max_tokens=self.config.max_tokens), self._negatives[concept.genre])
        label = torch.arange(len(shown) + len(others)) < len(shown)
        return Examples(lm, site, concept.text, (*shown, *others), rows, label)

    def _controls(self, concept: Concept) -> None:
        """Random directions as far as the concept's first direction goes."""
        like = next(
            (self.directions[concept.id, m] for m in self.config.methods if (concept.id, m) in self.directions), None
        )
        if like is None:
            return
        seed, sae = self.config.steering.seed, self.inputs.sae
        self.directions[concept.id, RANDOM_DIRECTION] = equal_norm_direction(like, seed=seed)
        if sae is not None:
            alive = list(range(sae.W_dec.shape[0]))
            if self.inputs.features is not None:
                alive = self.inputs.features.filter(pl.col("max_activation") > 0)["feature"].to_list()
            own = -1 if like.feature is None else like.feature
            self.directions[concept.id, RANDOM_FEATURE] = equal_norm_feature(sae, like, own, alive, seed=seed)

    def _open(self, held: Record) -> None:
        """Take up the directions of a former call with the same settings, or start anew."""
        lm, sae = self.inputs.lm, self.inputs.sae
        manifest = {
            "config": self.config.model_dump(mode="json", exclude={"steering", "prompting"}),
            "seed": self.config.steering.seed,
            "lm": {"reference": lm.reference, "dtype": str(lm.dtype)},
            "sae": None if sae is None else digest_of([float(sae.W_dec.double().sum()), list(sae.W_dec.shape)]),
            "concepts": digest_of([[c.id, c.text, c.genre] for c in self.inputs.concepts]),
        }
        self.held = Resumable(held, manifest)
        if self.held.whole(self.folder.detection.path) and self.held.whole(self.folder.directions):
            self.detection = self.folder.detection.read(list(DETECTION))
            for name, direction in load_directions(self.folder.directions).items():
                number, method = name.split("/", 1)
                self.directions[int(number), method] = direction
        self.held.begin()


def _scores(direction: Direction, rows: TextRows, sae: Sae | None) -> np.ndarray:
    """A text's score: its largest code for a feature of the SAE, else its largest h . v."""
    if direction.feature is None or sae is None:
        return direction_scores(direction, rows)
    return largest_codes(rows, sae)[:, direction.feature].numpy()
