"""What people are shown of a run, and how the judges read the same: by set (an SAE, or a site's random dictionary).

A set's texts lie in the run; the words of its features and the readings of all its texts are made again once
(instrument/again.py, a minute or two for ten SAEs) and kept in the run folder, with the sum of the texts that they are
of. Must never know a trial, nor who answers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import polars as pl

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.instrument.again import OWN, Again, dictionary_again, sae_again
from saelab.instrument.kept import step_of
from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.instrument.site import dictionary_name
from saelab.judges.scripted import ScriptedJudge
from saelab.store.folders import InstrumentFolder, StepsFolder
from saelab.store.layout import RunFolder
from saelab.study.adopt import standing
from saelab.study.spec import SaeSpec, StudyConfig
from saelab.study.workspace import Workspace

TEXT = ["owner", "prompt", "answer", "copy", "text"]
SHOWN = {
    "feature": pl.Int64,
    "about": pl.String,
    **dict.fromkeys(OUTCOMES, pl.List(pl.Float64)),
    "texts": pl.String,
}


@dataclass(frozen=True, eq=False)
class SteeredSet:
    """Features of one set with the texts that were steered with them.

    control: a random dictionary's. texts: owner (place of the feature, -1: unsteered, which come last), prompt, answer,
    copy, text. features: a row per place with the columns of `SHOWN`; readings are NaN where there is none. arms: by
    the feature's number. judges: by outcome, what the judge is called that reads so.
    """

    name: str
    control: bool
    texts: pl.DataFrame
    features: pl.DataFrame
    arms: Mapping[int, tuple[str, ...]]
    judges: Mapping[str, str]


def steered_sets(run: RunFolder, progress: Progress = SILENT) -> list[SteeredSet]:
    """All that was steered in a run. Raises `UserError` where nothing was, `ArtefactError` where it is not whole."""
    if not run.study.exists():
        raise UserError(f"{run.root} is not a run folder.", hint="Give the --out of saelab run, or the demo's folder.")
    run.check_readable()
    study = StudyConfig.from_yaml(run.study)
    nobody = ScriptedJudge(lambda _: "nobody is asked again", name="nobody")
    work = Workspace(study, run, progress, asked={"judge": nobody, "reader": nobody})
    sites: dict[tuple[str, str], list[SaeSpec]] = {}
    for spec in standing(study, run):
        if spec.steer and run.steering(spec.name).outcomes.exists:
            sites.setdefault((spec.model.key, spec.site), []).append(spec)
    found = [one for specs in sites.values() for one in _of_site(work, specs)]
    if not found:
        raise UserError(f"{run.root} holds no steered texts.", hint="A study steers where its grid says steer: true.")
    return found


def _of_site(work: Workspace, specs: list[SaeSpec]) -> Iterator[SteeredSet]:
    run, model, site = work.run, specs[0].model, specs[0].site
    gate = run.instrument(model.key, site)
    reader: str = gate.gate.read()["reader"]
    judges = {o: f"{o} by {reader if o == HEADLINE else model.key}" for o in OUTCOMES}
    with work.progress.task(f"what is shown of {model.key} {site}", len(specs) + 1, "sets") as task:
        for spec in specs:
            kept = run.steering(spec.name)
            outcomes = kept.outcomes.read(["feature", "arm"])
            if outcomes.height:
                texts = _texts(gate, kept, OWN)
                again = partial(_sae_again, work, spec)
                arms = {f: tuple(a) for f, a in outcomes.group_by("feature").agg(pl.col("arm").unique()).iter_rows()}
                yield SteeredSet(spec.name, False, texts, _shown(run, spec.name, texts, again), arms, judges)
            task.advance()
        for size in sorted({(s.d_sae, s.known_level) for s in specs}):
            name = dictionary_name(*size)
            if name in gate.features.read(["set"])["set"]:
                texts, called = _texts(gate, gate, name), f"{model.key}.{site}.{name}"
                again = partial(_dictionary_again, work, specs[0], size)
                yield SteeredSet(called, True, texts, _shown(run, called, texts, again), {}, judges)
        task.advance()


def _sae_again(work: Workspace, spec: SaeSpec) -> Again:
    gate = work.run.instrument(spec.model.key, spec.site)
    return sae_again(work.place(spec.model, spec.site), gate, work.coder(spec.name), work.run.steering(spec.name))


def _dictionary_again(work: Workspace, spec: SaeSpec, size: tuple[int, int]) -> Again:
    gate = work.run.instrument(spec.model.key, spec.site)
    return dictionary_again(work.place(spec.model, spec.site), gate, size)


def _texts(gate: InstrumentFolder, kept: StepsFolder, name: str) -> pl.DataFrame:
    return pl.concat([kept.step(step_of(kept, name)).read(TEXT), gate.step("unsteered").read(TEXT)]).select(TEXT)


def _shown(run: RunFolder, name: str, texts: pl.DataFrame, again: Callable[[], Again]) -> pl.DataFrame:
    """The table of `SHOWN`, as it is kept, or made where there is none of these texts."""
    total, kept = digest_of(texts.rows()), run.human.shown(name)
    if kept.exists:
        table = kept.read(list(SHOWN))
        if set(table["texts"]) == {total}:
            return table
    try:
        found = again()
    except ArtefactError as error:
        raise ArtefactError(
            f"What the judges read by cannot be made again: {error.message}",
            hint=error.hint or "It follows from the run's tokens, activations and SAEs: saelab run makes what is gone.",
        ) from error
    readings = {o: found.measured.values[o].T.tolist() for o in OUTCOMES}
    columns = {"feature": found.numbers, "about": found.features.about, **readings}
    table = pl.DataFrame(columns, schema_overrides=SHOWN).with_columns(texts=pl.lit(total)).select(list(SHOWN))
    kept.write(table)
    return table
