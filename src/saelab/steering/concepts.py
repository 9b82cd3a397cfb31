"""The stage for written concepts (AxBench's two tasks): fit every method's direction, detect with it, steer with it.

For each concept its directions are fitted on the training texts, scored on the detection texts (`detection.parquet`)
and steered with beside the controls: unsteered text, prompting, a random direction of equal norm and, given an SAE, a
random feature of equal norm. The number of a concept stands in the column `feature` of the tables that `evaluate.py`
writes; `utility.parquet` has one row per concept and method. A method that finds no direction for a concept is a row
with its reason: means over concepts say what they cover. Fitted directions are kept in `directions.safetensors` after
every concept, so an interrupted run fits none twice.

- detection.parquet  concept, concept_text, method, auroc_easy, auroc_all, hard_accuracy, n_positive, n_negative,
                     n_hard, state
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import Field

from saelab.core.config import Config, digest_of
from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description
from saelab.judges.client import Judge
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.steering import axbench
from saelab.steering.config import UtilityConfig
from saelab.steering.describe import describe
from saelab.steering.detection import POSITIVE, bag_of_words, detect, direction_scores
from saelab.steering.direction import Direction
from saelab.steering.directions.catalogue import METHODS, method_of
from saelab.steering.directions.equal_norm import equal_norm_direction, equal_norm_feature
from saelab.steering.directions.likelihood import Fit
from saelab.steering.directions.reft_r1 import reft_r1
from saelab.steering.directions.sae_auroc import largest_codes, sae_auroc
from saelab.steering.directions.sae_feature import sae_feature
from saelab.steering.directions.sae_label import labelled_feature
from saelab.steering.directions.ssv import ssv
from saelab.steering.evaluate import Task, evaluate
from saelab.steering.examples import Examples, Rows, joined, read
from saelab.steering.export import load_directions, save_directions
from saelab.steering.run import UTILITY, utility_table
from saelab.store.files import read_json, write_json
from saelab.store.tables import read_table, write_table

BAG, LABEL, AUROC = "bag_of_words", "sae_feature", "sae_auroc"
OF_AN_SAE = (LABEL, AUROC)
CONTROLS = ("random_direction", "random_feature")
DETECTION = {
    "concept": pl.Int64, "concept_text": pl.String, "method": pl.String, "auroc_easy": pl.Float64,
    "auroc_all": pl.Float64, "hard_accuracy": pl.Float64, "n_positive": pl.Int64, "n_negative": pl.Int64,
    "n_hard": pl.Int64, "state": pl.String,
}  # fmt: skip
FILES = (
    "directions.safetensors", "detection.parquet", "generations.parquet", "judgements.parquet", "utility.parquet",
    "manifest.json",
)  # fmt: skip


class ConceptsConfig(Config):
    """Settings of the run over written concepts. The steering settings are those of a feature's utility."""

    site: str = Field(description="Where directions are read and act.")
    methods: tuple[str, ...] = Field(
        default=tuple(METHODS), min_length=1, description="Fitted methods; sae_feature and sae_auroc need an SAE."
    )
    max_tokens: int = Field(default=192, ge=8, description="Longest text read, in tokens.")
    n_train: int = Field(default=72, ge=2, description="Training texts of each kind, at most.")
    n_detect: int = Field(default=36, ge=2, description="Detection texts of each kind, at most.")
    fit_texts: int = Field(default=72, ge=1, description="How many of each kind SSV and ReFT-r1 train on.")
    fit_epochs: int = Field(default=3, ge=1, description="Epochs of SSV and ReFT-r1.")
    fit_batch: int = Field(default=6, ge=1, description="Texts per step of SSV and ReFT-r1.")
    prompting: bool = Field(default=True, description="Ask for the concept in words beside the directions.")
    steering: UtilityConfig = Field(default=UtilityConfig(), description="Factors, instructions, texts and seed.")


@dataclass(frozen=True)
class ConceptInputs:
    """What the stage reads: AxBench's folder and those of its concepts that are wanted, instructions, a judge.

    sae, features: an SAE and interp's table of it (for the feature by label). prompts: by concept, the words of the
    prompting baseline; a fixed sentence where none is given.
    """

    lm: LanguageModel
    folder: Path
    concepts: Sequence[axbench.Concept]
    instructions: Sequence[str]
    judge: Judge
    sae: Sae | None = None
    features: pl.DataFrame | None = None
    prompts: Mapping[int, str] = field(default_factory=dict)
    judge_record: Mapping[str, Any] = field(default_factory=dict)


def run(config: ConceptsConfig, inputs: ConceptInputs, folder: Path, progress: Progress = SILENT) -> list[Path]:
    """Fit, detect, steer; returns the files written in `folder`, finished ones included."""
    lost = [m for m in config.methods if m in OF_AN_SAE and inputs.sae is None]
    if lost:
        raise UserError(f"{', '.join(lost)} needs an SAE, and none was given.")
    for method in set(config.methods) - set(OF_AN_SAE):
        method_of(method)
    fitted = _Fitted(config, inputs, folder)
    with progress.task("fitting directions", total=len(inputs.concepts), unit="concepts") as task:
        for concept in inputs.concepts:
            fitted.fit(concept)
            task.advance()
    spoken = {c.id: inputs.prompts.get(c.id, asked_for(c.text)) for c in inputs.concepts} if config.prompting else {}
    task_ = Task(
        lm=inputs.lm,
        directions=fitted.directions,
        concepts=descriptions(inputs.folder, inputs.concepts),
        instructions=inputs.instructions,
        judge=inputs.judge,
        prompts=spoken,
        sae=inputs.sae,
        judge_record=inputs.judge_record,
    )
    result = evaluate(config.steering, task_, folder, progress)
    table = utility_table(result, {"concept": [c.id for c in inputs.concepts]}, {})
    absent = fitted.detection.filter((pl.col("state") != "ok") & (pl.col("method") != BAG))
    rows = [(c, m, "concept", *[None] * 6, 0, 0, "no_direction") for c, m in absent.select("concept", "method").rows()]
    write_table(folder / "utility.parquet", table.vstack(pl.DataFrame(rows, UTILITY, orient="row")))
    return [folder / name for name in FILES]


def asked_for(concept: str) -> str:
    """The prompting baseline where no prompt is given: a plain demand for the concept."""
    return f"Whatever the question is, your answer must speak of this: {concept}."


def descriptions(folder: Path, concepts: Sequence[axbench.Concept]) -> dict[int, Description]:
    """Each concept with the words of its training texts as terms, for judges that count words.

    The others are its shared negatives and the texts of the other concepts, which the same writer wrote. A concept that
    no word tells has no terms: a judge that counts them says that it cannot judge.
    """
    texts = {c.id: axbench.training_texts(folder, c) for c in concepts}
    shown = {i: [p.answer for p, k in zip(t.pairs, t.kinds, strict=True) if k == POSITIVE] for i, t in texts.items()}
    plain = {i: [p.answer for p, k in zip(t.pairs, t.kinds, strict=True) if k != POSITIVE] for i, t in texts.items()}
    found = {}
    for c in concepts:
        foreign = [answer for i, answers in shown.items() if i != c.id for answer in answers]
        try:
            found[c.id] = describe(c.text, shown[c.id], plain[c.id] + foreign)
        except UserError:
            found[c.id] = Description(c.text)
    return found


class _Fitted:
    """Directions and detection scores so far, kept on disk after every concept."""

    def __init__(self, config: ConceptsConfig, inputs: ConceptInputs, folder: Path):
        self.config, self.inputs, self.folder = config, inputs, folder
        self.directions: dict[tuple[int, str], Direction] = {}
        self.detection = pl.DataFrame(schema=DETECTION)
        self._negatives: dict[str, Rows] = {}
        self._open(folder / "fit.json")

    def fit(self, concept: axbench.Concept) -> None:
        """Fit and detect every method on one concept, unless a former call did."""
        if concept.id in self.detection["concept"]:
            return
        examples = self._examples(concept)
        texts = axbench.detection_texts(self.inputs.folder, concept).first(self.config.n_detect)
        rows = read(self.inputs.lm, self.config.site, texts.pairs, max_tokens=self.config.max_tokens)
        table: list[tuple[Any, ...]] = []
        for method in self.config.methods:
            try:
                direction = self._direction(method, examples)
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
        save_directions(self.folder / "directions.safetensors", named)
        write_table(self.folder / "detection.parquet", self.detection)

    def _examples(self, concept: axbench.Concept) -> Examples:
        """The concept's training texts; the negatives of a genre are read once."""
        lm, site, texts = self.inputs.lm, self.config.site, axbench.training_texts(self.inputs.folder, concept)
        positive = np.array([kind == POSITIVE for kind in texts.kinds])
        shown = [p for p, k in zip(texts.pairs, positive, strict=True) if k][: self.config.n_train]
        others = [p for p, k in zip(texts.pairs, positive, strict=True) if not k][: self.config.n_train]
        if concept.genre not in self._negatives:
            self._negatives[concept.genre] = read(lm, site, others, max_tokens=self.config.max_tokens)
        rows = joined(read(lm, site, shown, max_tokens=self.config.max_tokens), self._negatives[concept.genre])
        label = torch.arange(len(shown) + len(others)) < len(shown)
        return Examples(lm, site, concept.text, (*shown, *others), rows, label)

    def _direction(self, method: str, examples: Examples) -> Direction:
        config, sae, seed = self.config, self.inputs.sae, self.config.steering.seed
        size = {"epochs": config.fit_epochs, "batch": config.fit_batch, "texts": config.fit_texts}
        fit = Fit(**size, max_tokens=config.max_tokens)
        if method == "ssv":
            return ssv(examples, seed=seed, fit=fit)
        if method == "reft_r1":
            return reft_r1(examples, seed=seed, fit=replace(fit, clip=1.0))
        if sae is None or method not in OF_AN_SAE:
            return method_of(method)(examples, seed=seed)
        if method == AUROC:
            return sae_auroc(examples, sae)
        table = self.inputs.features
        found = None if table is None else labelled_feature(examples.concept, table)
        if found is None:
            raise UserError("No feature's description speaks of the concept.")
        return sae_feature(sae, *found)

    def _controls(self, concept: axbench.Concept) -> None:
        """Random directions as far as the concept's first direction goes."""
        like = next(
            (self.directions[concept.id, m] for m in self.config.methods if (concept.id, m) in self.directions), None
        )
        if like is None:
            return
        seed, sae = self.config.steering.seed, self.inputs.sae
        self.directions[concept.id, CONTROLS[0]] = equal_norm_direction(like, seed=seed)
        if sae is not None:
            alive = list(range(sae.W_dec.shape[0]))
            if self.inputs.features is not None:
                alive = self.inputs.features.filter(pl.col("max_activation") > 0)["feature"].to_list()
            own = -1 if like.feature is None else like.feature
            self.directions[concept.id, CONTROLS[1]] = equal_norm_feature(sae, like, own, alive, seed=seed)

    def _open(self, path: Path) -> None:
        """Take up the directions of a former call with the same settings, or start anew."""
        lm, sae = self.inputs.lm, self.inputs.sae
        manifest = {
            "config": self.config.model_dump(mode="json", exclude={"steering", "prompting"}),
            "seed": self.config.steering.seed,
            "lm": {"reference": lm.reference, "dtype": str(lm.dtype)},
            "sae": None if sae is None else digest_of([float(sae.W_dec.double().sum()), list(sae.W_dec.shape)]),
            "concepts": digest_of([[c.id, c.text, c.genre] for c in self.inputs.concepts]),
        }
        try:
            same = path.exists() and read_json(path) == manifest
            if same and (self.folder / "detection.parquet").exists():
                self.detection = read_table(self.folder / "detection.parquet", list(DETECTION))
                for name, direction in load_directions(self.folder / "directions.safetensors").items():
                    number, method = name.split("/", 1)
                    self.directions[int(number), method] = direction
        except ArtefactError:
            self.directions, self.detection = {}, pl.DataFrame(schema=DETECTION)
        write_json(path, manifest)


def _scores(direction: Direction, rows: Rows, sae: Sae | None) -> np.ndarray:
    """A text's score: its largest code for a feature of the SAE, else its largest h . v."""
    if direction.feature is None or sae is None:
        return direction_scores(direction, rows)
    return largest_codes(rows, sae)[:, direction.feature].numpy()
