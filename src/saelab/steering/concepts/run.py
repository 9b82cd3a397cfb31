"""The stage for written concepts (AxBench's two tasks): fit every method's direction, detect with it, steer with it.

For each concept its directions are fitted on the training texts, scored on the detection texts (fitted.py) and steered
with beside the controls: unsteered text, prompting, a random direction of equal norm and, given an SAE, a random
feature of equal norm. The number of a concept stands in the column `feature` of the tables that `evaluate.py` writes;
`utility.parquet` has one row per concept and method. A method that finds no direction for a concept is a row with its
reason: means over concepts say what they cover. An interrupted run fits and writes nothing twice.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description
from saelab.steering.concepts.axbench import AxBench, Concept
from saelab.steering.concepts.config import ConceptInputs, ConceptsConfig
from saelab.steering.concepts.describe import describe
from saelab.steering.concepts.detection import BAG, POSITIVE
from saelab.steering.concepts.fitted import Fitted
from saelab.steering.evaluate import SteeringTask, evaluate
from saelab.steering.run import UTILITY, utility_table
from saelab.store.folders import ConceptsFolder


def run(config: ConceptsConfig, inputs: ConceptInputs, folder: Path, progress: Progress = SILENT) -> list[Path]:
    """Fit, detect, steer; returns the files written in `folder`, finished ones included."""
    fitted = Fitted(config, inputs, folder)
    with progress.task("fitting directions", total=len(inputs.concepts), unit="concepts") as task:
        for concept in inputs.concepts:
            fitted.fit(concept)
            task.advance()
    spoken = {c.id: inputs.prompts.get(c.id, asked_for(c.text)) for c in inputs.concepts} if config.prompting else {}
    task_ = SteeringTask(
        lm=inputs.lm,
        directions=fitted.directions,
        concepts=descriptions(inputs.data, inputs.concepts),
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
    place = ConceptsFolder(folder)
    place.utility.write(table.vstack(pl.DataFrame(rows, UTILITY, orient="row")))
    return place.files


def asked_for(concept: str) -> str:
    """The prompting baseline where no prompt is given: a plain demand for the concept."""
    return f"Whatever the question is, your answer must speak of this: {concept}."


def descriptions(data: AxBench, concepts: Sequence[Concept]) -> dict[int, Description]:
    """Each concept with the words of its training texts as terms, for judges that count words.

    The others are its shared negatives and the texts of the other concepts, which the same writer wrote. A concept that
    no word tells has no terms: a judge that counts them says that it cannot judge.
    """
    texts = {c.id: data.training(c) for c in concepts}
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
