"""One function per stage: from a cell and a workspace to the artefact files of that cell.

Each opens what the stage needs, calls the stage's own `run`, and returns the files it wrote. What a stage computes is
in its package; how cells are ordered and recorded is in cells.py and executors.py.
"""

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from saelab.activations.harvest import harvest
from saelab.activations.pairs import PairedShards
from saelab.core.errors import ArtefactError
from saelab.core.records import Judgement
from saelab.instrument import sae as sae_stage
from saelab.instrument import site as site_stage
from saelab.interp import run as interp_stage
from saelab.interp.suite import run as suite_stage
from saelab.interp.suite.evaluation import data_sets_of
from saelab.interp.suite.published import published
from saelab.judges.anchors import drift, judge_anchors
from saelab.matching import repeats as repeats_stage
from saelab.matching import run as matching_stage
from saelab.saes.base import TrainConfig
from saelab.selection import run as selection_stage
from saelab.steering import run as steering_stage
from saelab.steering.plan import candidates
from saelab.store.files import write_json
from saelab.store.references import fetch
from saelab.study import adopt as adopt_stage
from saelab.study import levels
from saelab.study.cells import Cell
from saelab.study.spec import training_of
from saelab.study.starts import start_of
from saelab.study.summary import write_statistics
from saelab.study.workspace import HELD_OUT, TRAIN, Workspace
from saelab.text.corpora import DocumentCounts, iter_documents
from saelab.text.pack import pack_split
from saelab.training import run as training_stage


def do(cell: Cell, work: Workspace) -> list[Path]:
    """Run a cell; returns its artefact files. A cell of an SAE that could not be adopted has nothing to do."""
    if cell.stage in OF_SAES and len(work.standing(_named(cell))) < len(_named(cell)):
        return []
    return STAGES[cell.stage](cell, work)


def _text(cell: Cell, work: Workspace) -> list[Path]:
    model, config = work.models[cell.name], work.study.text
    counts = DocumentCounts()
    parts = pack_split(
        work.lm(model),
        iter_documents(config.corpus, counts),
        context=config.context,
        n_contexts=config.train_contexts,
        n_held_out=config.held_out_contexts,
        progress=work.progress,
    )
    folder = work.run.tokens(cell.name)
    for part, packed in zip((TRAIN, HELD_OUT), parts, strict=True):
        packed.save(folder / part)
    write_json(counted := folder / "corpus.json", asdict(counts))
    return [*(f for part in (TRAIN, HELD_OUT) for f in _files(folder / part)), counted]


def _harvest(cell: Cell, work: Workspace) -> list[Path]:
    model = work.models[cell.name]
    folder = work.run.activations(cell.name)
    sites = cell.settings["sites"]
    packed = work.text(model, TRAIN)
    packed = packed.first(cell.settings.get("contexts", packed.n_contexts))
    harvest(work.lm(model), packed, sites, folder, config=work.study.harvest.own, progress=work.progress)
    return [f for site in sites for f in _files(folder / site)]


def _train(cell: Cell, work: Workspace) -> list[Path]:
    specs = [work.saes[name] for name in cell.settings["saes"]]
    model, live = specs[0].model, None
    if "stream" in cell.settings:
        live = work.live(model, cell.inputs[0].settings["sites"], cell.settings["stream"]["buffer_rows"])
    shares, configs = [], dict[str, TrainConfig]()
    for site, reads in dict.fromkeys((s.site, s.reads) for s in specs):
        own = [s for s in specs if (s.site, s.reads) == (site, reads)]
        shards = work.opened_shards(model, reads or site)
        written = None if reads is None else work.opened_shards(model, site)
        if live is not None:
            source = live.at(reads or site, None if reads is None else site)
        else:
            source = shards if written is None else PairedShards(shards, written)
        ends: dict[str, int] = {"d_in": shards.d} | ({} if written is None else {"d_out": written.d})
        configs |= {s.name: s.training_config(**ends) for s in own}
        own = levels.trained(own)
        starts = {s.name: start for s in own if (start := start_of(s)) is not None}
        seed = cell.settings["saes"][own[0].name]["seed"] if live is not None else cell.settings["seed"]
        ways = {"site": reads or site, "site_out": None if reads is None else site}
        mine = {s.name: configs[s.name] for s in own}
        shares.append(training_stage.Share(mine, source, seed, **ways, starts=starts))
    files = training_stage.run_shares(
        training_of(work.study, specs[0]),
        shares,
        saes=work.run.saes,
        folder=work.run.training(cell.name),
        seed=cell.settings["seed"],
        lm=model.reference,
        text=work.study.text.corpus.source,
        progress=work.progress,
        ranks=work.ranks,
    )
    return [*files, *(levels.write_others(specs, configs, work.run.saes) if files else [])]  # the first rank writes


def _adopt(cell: Cell, work: Workspace) -> list[Path]:
    spec = work.saes[cell.name]
    assert spec.adopted is not None
    return adopt_stage.run(spec, spec.adopted, work.lm(spec.model), work.text(spec.model, HELD_OUT), work.run)


def _interp(cell: Cell, work: Workspace) -> list[Path]:
    spec = work.saes[cell.name]
    return interp_stage.run(
        work.site_text(spec),
        work.coder(cell.name),
        work.run.interp(cell.name).root,
        judge=work.judge,
        meaning=work.meaning,
        progress=work.progress,
    )


def _read(cell: Cell, work: Workspace) -> list[Path]:
    asked = {f"{m.key}.{r.key}": (m, r) for m in work.study.models for r in data_sets_of(work.suite)}
    model, data = asked[cell.name]
    folder = work.run.readings(model.key) / data.key
    return suite_stage.read(
        data, work.lm(model), cell.settings["sites"], folder, seed=cell.settings["seed"], progress=work.progress
    )


def _evaluate(cell: Cell, work: Workspace) -> list[Path]:
    return suite_stage.run(
        work.site_suite(work.saes[cell.name]),
        work.sae(cell.name),
        cell.name,
        features=work.run.interp(cell.name).features.read(),
        judge=work.judge,
        table=work.run.interp(cell.name).evaluations.path,
        saebench=work.run.saebench,
        progress=work.progress,
    )


def _published(cell: Cell, work: Workspace) -> list[Path]:
    table = published(fetch(cell.settings["against"]), work.run.saebench)
    return [work.run.stats.table("published").write(table)]


def _select(cell: Cell, work: Workspace) -> list[Path]:
    spec = work.saes[cell.name]
    features = work.run.interp(cell.name).features.read(["feature", "density", "state"])
    features = features.sort("feature")
    alive = (features["density"] > 0).to_list()
    tested = features.filter(pl.col("state") == "ok")["feature"].to_list()
    folder = work.run.selection(cell.name).root
    config = work.study.selection
    lm, sae = work.lm(spec.model), work.coder(cell.name)
    return selection_stage.run(config, lm, sae, folder, alive=alive, tested=tested, progress=work.progress)


def _calibrate(cell: Cell, work: Workspace) -> list[Path]:
    model = work.models[cell.name]
    cuts = work.study.judge.kind.per_model
    if cuts is None:
        raise ArtefactError(f"The judge {work.study.judge.name} has nothing to calibrate.")
    found = cuts.calibrate(
        work.lm(model),
        work.instructions,
        max_new_tokens=work.study.steering.max_new_tokens,
        seed=work.study.seed,
        progress=work.progress,
    )
    return [work.run.judge(cell.name).write(found.model_dump(mode="json"))]


def _gate(cell: Cell, work: Workspace) -> list[Path]:
    specs = work.standing(cell.settings["saes"])
    if not specs:
        return []
    model, site = specs[0].model, specs[0].site
    return site_stage.run(
        work.place(model, site),
        site_stage.classes_of(work.study.instrument),
        {spec.name: work.coder(spec.name) for spec in specs},
        sorted({(s.d_sae, s.known_level) for s in specs}),
        work.run.instrument(model.key, site).root,
        work.progress,
    )


def _steer(cell: Cell, work: Workspace) -> list[Path]:
    spec = work.saes[cell.name]
    return sae_stage.run(
        work.place(spec.model, spec.site),
        work.run.instrument(spec.model.key, spec.site),
        work.coder(cell.name),
        work.study.steering.arms,
        able=candidates(work.run.interp(cell.name).features.read()),
        effects=work.run.selection(cell.name).effects.read(),
        folder=work.run.steering(cell.name).root,
        seed=work.study.steering.seed,
        progress=work.progress,
    )


def _rate(cell: Cell, work: Workspace) -> list[Path]:
    spec = work.saes[cell.name]
    lm, (judge, record) = work.lm(spec.model), work.text_judge(spec.model)
    inputs = steering_stage.SteeringInputs(
        lm=lm,
        sae=work.sae(cell.name),
        features=work.run.interp(cell.name).features.read(),
        effects=work.run.selection(cell.name).effects.read(),
        instructions=work.instructions,
        judge=judge,
        judge_record=record,
    )
    return steering_stage.run(work.study.steering, inputs, work.run.ratings(cell.name).root, work.progress)


def _anchors(cell: Cell, work: Workspace) -> list[Path]:
    rounds = ("start", "end")
    found = judge_anchors(work.judge, rounds.index(cell.name), progress=work.progress)
    record: dict[str, Any] = {"judge": work.judge.name, "answers": [asdict(answer) for answer in found]}
    if cell.name == "end":
        start = [Judgement(**answer) for answer in work.run.anchors("start").read()["answers"]]
        record |= {"drift": drift(start, found).record()}
    return [work.run.anchors(cell.name).write(record)]


def _match(cell: Cell, work: Workspace) -> list[Path]:
    names = _named(cell)
    if cell.settings.get("repeat"):
        first, second = (work.sae(n) for n in names)
        folder = work.run.matching(names[0], names[1]).root
        return repeats_stage.run(first, second, folder, seed=cell.settings["seed"], progress=work.progress)
    specs = [work.saes[n] for n in names]
    model = specs[0].model
    folders = [work.run.matching(a, b) for a, b in pairwise(names)]
    steps: list[pl.DataFrame] = [f.matching.read() for f in folders] if len(names) > 2 else []
    return matching_stage.run(
        work.study.matching,
        work.sae(names[0]),
        work.sae(names[-1]),
        work.run.matching(names[0], names[-1]).root,
        lm=work.lm(model),
        text=work.text(model, HELD_OUT),
        sites=(specs[0].site, specs[-1].site),
        steps=steps,
        progress=work.progress,
    )


def _stats(cell: Cell, work: Workspace) -> list[Path]:
    return write_statistics(work.study, work.run)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file())


def _named(cell: Cell) -> list[str]:
    """The SAEs that a cell of `OF_SAES` is of."""
    return list(cell.settings.get("path") or cell.name.split("--"))


OF_SAES = frozenset({"interp", "evaluate", "select", "steer", "rate", "match"})  # named after one SAE, or after two
STAGES: dict[str, Callable[[Cell, Workspace], list[Path]]] = {
    "text": _text,
    "harvest": _harvest,
    "train": _train,
    "adopt": _adopt,
    "interp": _interp,
    "read": _read,
    "evaluate": _evaluate,
    "published": _published,
    "select": _select,
    "calibrate": _calibrate,
    "gate": _gate,
    "steer": _steer,
    "rate": _rate,
    "match": _match,
    "anchors": _anchors,
    "stats": _stats,
}
