"""Whether a study can run here: its models, files, key and devices, looked at before anything is computed.

What a study file alone can be wrong in is refused when it is parsed (spec.py); `plan` and `run` both ask here for the
rest. All that is wrong is said at once, each with its key. Reads configs and tokenizers, never weights.
"""

import copy
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from saelab.core.config import Fault, faults_in
from saelab.core.errors import SaelabError, UserError
from saelab.core.hardware import device_of
from saelab.core.sites import Site, in_stream, missing, parse_site
from saelab.interp.suite.published import result_files
from saelab.judges.catalogue import JudgeConfig
from saelab.judges.steering_lexical import FEWEST
from saelab.judges.transport import key_of
from saelab.lm.facts import ModelFacts, facts_of
from saelab.lm.sources import same_model
from saelab.steering.config import UtilityConfig
from saelab.store.references import cached, fetch, parse_reference
from saelab.study.grids import AdoptedConfig, GridConfig
from saelab.study.spec import APART, EMBEDDED, JUDGED_AT, ModelConfig, StudyConfig, misfits, steers
from saelab.text.corpora import CorpusConfig
from saelab.text.instructions import load_instructions
from saelab.text.local import read_rows, text_files

Names = Mapping[tuple[str, ...], str]  # of keys (without numbers of list items), where they were not given as such
NO_NAMES: Names = {}


def accepted(data: object, *, origin: str, names: Names = NO_NAMES) -> StudyConfig:
    """The study of a file's plain data. Where it is refused, what this machine lacks for the rest is said with it.

    names: what the keys of faults are called instead.
    """
    try:
        return StudyConfig.model_validate(data)
    except ValidationError:
        raise refusal(f"{origin} is not a valid study", _all_of(data), names) from None


def check(
    study: StudyConfig, stages: Collection[str] | None = None, *, download: bool = True, names: Names = NO_NAMES
) -> None:
    """Raise `UserError` with all that keeps these stages of a study from running here. stages: None is all."""
    if found := faults_of(study, stages, download=download):
        raise refusal(f"The study {study.name} cannot run here", found, names)


def faults_of(study: StudyConfig, stages: Collection[str] | None = None, *, download: bool = True) -> list[Fault]:
    """What keeps these stages from running here. download: whether configs of models may be fetched."""

    def wanted(*some: str) -> bool:
        return stages is None or any(stage in stages for stage in some)

    found: list[Fault] = []
    for i, model in enumerate(study.models):
        found += _of_model(study, model, ("models", i), wanted, download)
        found += _said(("models", i, "device"), lambda name=model.device: device_of(name))
    found += _of_files(study, wanted)
    if wanted("interp", "evaluate", "rate", "anchors"):
        for role, judge in study.judges.items():
            found += _of_judge(judge, JUDGED_AT[role], download)
    if wanted("train"):
        found += _said(("training", "device"), lambda: device_of(study.training.device))
    return list(dict.fromkeys(found))


def refusal(start: str, faults: Sequence[Fault], names: Names = NO_NAMES) -> UserError:
    """One fault behind the start, several each on a line of its own; of flags those that were given, where any is."""
    flags = [fault for fault in faults if _name(fault, names) is not None]
    said = [_named(fault, names) for fault in flags or faults]
    if len(said) == 1:
        return UserError(f"{start}: {said[0]}")
    return UserError(f"{start}:" + "".join(f"\n  {one}" for one in said))


def _named(fault: Fault, names: Names) -> str:
    called = _name(fault, names)
    return str(fault) if called is None else f"{called}: {fault.what}"


def _name(fault: Fault, names: Names) -> str | None:
    return names.get(tuple(key for key in fault.where if isinstance(key, str)))


def unknown_models(study: StudyConfig) -> list[str]:
    """Models of which nothing is on this machine, so that sites and templates could not be looked at."""
    return [m.lm for m in study.models if _quiet_facts(m.lm) is None]


def _of_model(
    study: StudyConfig, model: ModelConfig, where: tuple[str | int, ...], wanted: Callable[..., bool], download: bool
) -> Iterator[Fault]:
    found: list[ModelFacts | None] = []
    faults = list(_said((*where, "lm"), lambda: found.append(facts_of(model.lm, fetch=download))))
    yield from faults
    facts = found[0] if found else None
    if facts is None:
        return
    for j, grid in enumerate(model.grids):
        for k, name in enumerate(grid.sites):
            yield from _of_site(name, (*where, "grids", j, "sites", k), facts, wanted, suite=study.suite is not None)
            if grid.steer:
                acts = name if grid.target is None else f"{grid.target}.{parse_site(name).layer}"
                yield from _of_steering(acts, (*where, "grids", j), wanted)
        if grid.target is not None:
            yield from _of_target(study, grid, (*where, "grids", j), facts, wanted)
    for j, one in enumerate(model.saes):
        yield from _of_adopted(one, model, (*where, "saes", j), facts, wanted, suite=study.suite is not None)
    if facts.positions is not None and study.text.context > facts.positions:
        yield Fault(
            ("text", "context"), f"{study.text.context} tokens, but {model.key} has {facts.positions} positions"
        )
    if wanted("select") and not 1 <= study.selection.k <= facts.vocab_size:
        yield Fault(("selection", "k"), f"counts tokens, of which {model.key} has {facts.vocab_size}")
    steered = model.control is None and any(part.steer for part in (*model.grids, *model.saes))
    if not (wanted("gate", "steer", "rate", "calibrate") and steered):
        return
    if not facts.template and model.template is None:
        what = 'the model has no chat template: say how it is asked, such as "Question: {instruction}\\nAnswer:"'
        yield Fault((*where, "template"), what)
    longest = [(("instrument", "new_tokens"), study.instrument.new_tokens)]
    longest += [(("steering", "max_new_tokens"), study.steering.max_new_tokens)] if study.rated else []
    for key, tokens in longest:
        if facts.positions is not None and tokens >= facts.positions:
            yield Fault(key, f"answers of {tokens} tokens, but {model.key} has {facts.positions} positions")


def _of_site(
    name: str, key: tuple[str | int, ...], facts: ModelFacts, wanted: Callable[..., bool], *, suite: bool
) -> Iterator[Fault]:
    site = parse_site(name)
    if site.layer >= facts.n_layers:
        last = f"{site.kind}.{facts.n_layers - 1}"
        yield Fault(key, f"{name} is beyond the last block: the model has {facts.n_layers}. Nearest: {last}.")
    elif not facts.has(site):
        yield Fault(key, f"{missing(site, facts.family)} Nearest: resid_post.{site.layer}.")
    elif suite and not site.of_stream and wanted("read", "evaluate"):
        yield Fault(key, f"{name} is no site of SAEBench's evaluations. Nearest: resid_post.{site.layer}.")


def _of_target(
    study: StudyConfig,
    grid: GridConfig,
    key: tuple[str | int, ...],
    facts: ModelFacts,
    wanted: Callable[..., bool],
) -> Iterator[Fault]:
    """What a grid of transcoders cannot do."""
    if grid.target is not None and not facts.has(site := Site(grid.target, parse_site(grid.sites[0]).layer)):
        yield Fault((*key, "target"), missing(site, facts.family))
    if study.suite is not None and wanted("read", "evaluate"):
        yield Fault((*key, "target"), "SAEBench's evaluations are of SAEs, not of transcoders: leave the suite out")
    if grid.steer and study.rated and wanted("rate"):
        yield Fault((*key, "steer"), "a judge rates texts of SAEs, not of transcoders. Say: steering.ratings: false")
    if grid.steer and study.selection.edit != "add" and wanted("select"):
        yield Fault(("selection", "edit"), "a transcoder reads no codes where its features act. Nearest: add")


def _of_steering(site: str, key: tuple[str | int, ...], wanted: Callable[..., bool]) -> Iterator[Fault]:
    if wanted("select", "gate", "steer", "rate") and not in_stream(parse_site(site)):
        what = f"features of {site} are not selected or steered with: a direction there is none of the stream"
        yield Fault((*key, "steer"), f"{what}. Say: false")


def _of_adopted(
    one: AdoptedConfig,
    model: ModelConfig,
    where: tuple[str | int, ...],
    facts: ModelFacts,
    wanted: Callable[..., bool],
    *,
    suite: bool,
) -> Iterator[Fault]:
    """An SAE that was opened against its language model: the site, the width, and whether it is its own."""
    found = one.found
    if found is None:
        return
    if (site := one.site or found.site) is not None:
        yield from _of_site(site, (*where, "site"), facts, wanted, suite=suite)
        if one.steer or one.effects:
            yield from _of_steering(site, where, wanted)
    width = facts.d_model if site is None else facts.width(parse_site(site))
    if found.d_in != width:
        yield Fault((*where, "ref"), f"reads width {found.d_in}, and {model.key} has width {width}")
    elif found.lm is not None and not one.force_lm and not same_model(found.lm, model.lm):
        what = f"its files name the language model {found.lm}, not {model.lm}. To score it all the same: true"
        yield Fault((*where, "force_lm"), what)


def _of_files(study: StudyConfig, wanted: Callable[..., bool]) -> Iterator[Fault]:
    """Text, instructions and the suite's tables: are they there, and are they enough?"""
    corpus = study.text.corpus
    if wanted("text") and corpus.source != EMBEDDED:
        yield from _said(("text", "corpus", "source"), lambda: _open_corpus(corpus))
    if study.suite is not None and study.suite.ravel is not None and wanted("read", "evaluate"):
        tables = study.suite.ravel
        yield from _said(("suite", "ravel"), lambda: fetch(tables))
    if study.suite is not None and study.suite.against is not None and wanted("published"):
        files = study.suite.against
        yield from _said(("suite", "against"), lambda: result_files(fetch(files)))
    if not (wanted("gate", "steer", "rate", "calibrate") and steers(study)):
        return
    if not isinstance(study.instrument.classes, str):
        yield from _said(("instrument", "classes"), lambda: _open_classes(study))
    held: list[str] = []
    yield from _said(("instructions",), lambda: held.extend(load_instructions(study.instructions)))
    if not held:
        return
    if len(set(held)) < len(held):
        yield Fault(("instructions",), "an instruction is given twice; it could land in dev and in test")
    if study.instrument.prompts > len(held):
        yield Fault(("instrument", "prompts"), f"{study.instrument.prompts} instructions, out of {len(held)}")
    asked, plain = study.steering.n_dev + study.steering.n_test, UtilityConfig()
    if not study.rated and asked == plain.n_dev + plain.n_test:
        return  # nobody asks for them
    if asked > len(held):
        what = f"{study.steering.n_dev} dev and {study.steering.n_test} test instructions, out of {len(held)}"
        yield Fault(("steering", "n_test"), f"{what}. Nearest: {max(1, len(held) - study.steering.n_dev)}.")
    if study.rated and study.judge.kind.per_model and len(held) < FEWEST:
        yield Fault(("instructions",), f"{len(held)} of them; the judge is calibrated on at least {FEWEST}")


def _of_judge(judge: JudgeConfig, where: tuple[str, ...], download: bool) -> Iterator[Fault]:
    if judge.kind.paid and judge.base_url is None and not os.environ.get(judge.key_variable, "").strip():
        yield Fault((*where, "key_variable"), f"the environment variable {judge.key_variable} holds no API key")
    if judge.kind.paid:
        yield from _said((*where, "key_variable"), lambda: key_of(judge.key_variable))
    if judge.kind.takes == "LM":
        found: list[ModelFacts | None] = []
        yield from _said((*where, "name"), lambda: found.append(facts_of(judge.model, fetch=download)))
        if found and found[0] is not None and not found[0].template:
            yield Fault((*where, "name"), f"{judge.model} has no chat template, so it cannot be asked")


def _open_classes(study: StudyConfig) -> None:
    """Read the files of the known classes."""
    from saelab.instrument.site import classes_of  # with it comes torch

    classes_of(study.instrument)


def _open_corpus(corpus: CorpusConfig) -> None:
    """Look at the first text of a corpus that lies on this machine."""
    reference = parse_reference(corpus.source)
    if reference.kind != "hf" and cached(reference):
        first = text_files(fetch(reference))[0][1]
        next(iter(read_rows(first, corpus.column)), None)


def _said(where: tuple[str | int, ...], look: Callable[[], object]) -> Iterator[Fault]:
    try:
        look()
    except SaelabError as error:
        yield Fault(where, str(error))


def _quiet_facts(lm: str) -> ModelFacts | None:
    try:
        return facts_of(lm, fetch=False)
    except SaelabError:
        return None


def _all_of(data: object) -> list[Fault]:
    """All that is wrong with the plain data of a study: what is at fault is left out, and the rest is looked at."""
    found: list[Fault] = []
    gone = set[tuple[str | int, ...]]()
    while True:
        rest = copy.deepcopy(data)
        for where in sorted(gone, key=lambda w: [f"{k!s:>9}" for k in w], reverse=True):  # of a list, last items first
            _remove(rest, where)
        if isinstance(rest, dict) and ("name",) in gone:
            rest["name"] = "study"
        try:
            study = StudyConfig.model_validate(rest, context=APART)
        except ValidationError as error:
            study, later = None, faults_in(error, StudyConfig)
        else:
            later = [*misfits(study), *faults_of(study)]
        moved = [Fault(_former(f.where, gone), f.what) for f in later]
        found += [f for f in moved if not any(w[: len(f.where)] == f.where for w in gone)]  # no complaint of a gap
        new = {f.where for f in moved if f.where} - gone
        if study is not None or not new:
            return [f for f in dict.fromkeys(found) if not any(_says_more(g, f) for g in found)]
        gone |= new


def _says_more(fault: Fault, than: Fault) -> bool:
    return fault.where == than.where and fault.what != than.what and than.what in fault.what


def _remove(data: Any, where: tuple[str | int, ...]) -> None:
    """Take the item at a place out of nested lists and mappings; of a place inside a plain value, that value."""
    *way, last = where
    for key in way:
        if not _holds(data, key) or not isinstance(data[key], dict | list):
            last = key
            break
        data = data[key]
    if _holds(data, last):
        del data[last]


def _holds(data: Any, key: str | int) -> bool:
    return key in data if isinstance(data, dict) else isinstance(data, list) and key in range(len(data))


def _former(where: tuple[str | int, ...], gone: Collection[tuple[str | int, ...]]) -> tuple[str | int, ...]:
    """Where an item stood before those in front of it were taken out."""
    found: tuple[str | int, ...] = ()
    for key in where:
        for lost in sorted(w[-1] for w in gone if w[:-1] == found and isinstance(w[-1], int)):
            key = key + 1 if isinstance(key, int) and lost <= key else key
        found += (key,)
    return found
