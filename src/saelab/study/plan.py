"""From a study to its cells. Nothing is computed or fetched here.

The graph, for every model: text -> harvest -> train (a site's SAEs together; from the stream those of all sites) or
adopt (one that exists) -> gate of every site that is steered, interp, select -> steer (and rate, where a judge rates
texts) for every SAE that is steered, interp for the others, match for every step of a path and every two trainings of
one SAE; the lexical judge is calibrated once per model; then stats over all. A judge that is a model answers its
anchors first and last.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, pairwise

from saelab.core.seeds import seed_of
from saelab.instrument.config import gate_texts, steered_texts
from saelab.interp.suite.evaluation import data_sets_of
from saelab.steering.plan import budget
from saelab.study.cells import Cell, in_order
from saelab.study.levels import trained
from saelab.study.repeats import repeats
from saelab.study.sizes import BASE, size_of
from saelab.study.spec import ModelConfig, PathConfig, SaeSpec, StudyConfig, path_saes, saes_of, training_of
from saelab.study.streams import harvested_contexts, sites_of_model, stream_runs, streamed

# Rough seconds on two cores in float32, for a 135M-parameter LM (sizes.py scales them); native bfloat16 halves them.
# Only progress bars and plans use them.
SECONDS = {
    "text": 12.0,
    "packed": 1e-5,  # per token of text
    "harvest": 1 / 930,  # per token
    "train": 4.5e-11,  # per step, batch row, input width and feature
    "adopt": 4.0,
    "interp": 6.5,
    "read": 60.0,
    "evaluate": 40.0,
    "published": 1.0,
    "select": 1 / 370,  # per feature
    "calibrate": 30.0,
    "gate": 1 / 70,  # per generated token
    "steer": 1 / 70,  # per generated token
    "rate": 1 / 70,  # per generated token
    "match": 12.0,
    "again": 4.0,
    "anchors": 20.0,
    "stats": 5.0,
}
# Of a model, done before all else: training takes all cores, and many cells wait for a gate.
FIRST = ("train", "adopt", "gate")


def cells_of(study: StudyConfig) -> list[Cell]:
    """All cells of the study, inputs first."""
    cells = [cell for model in study.models for cell in _model_cells(study, model)]
    ends = [cell for cell in cells if cell.stage not in FIRST]
    settings = {"seed": study.seed, "resamples": study.resamples, "name": study.name}
    suite = _suite_cells(study, ends)
    first, last = _anchor_cells(study, [*ends, *suite])
    told = suite if any(s.control for s in saes_of(study)) else []  # which of its scores tell controls from SAEs
    before = (*ends, *last, *told)
    return in_order([*first, *cells, Cell("stats", study.name, settings, before, SECONDS["stats"]), *suite])


def _model_cells(study: StudyConfig, model: ModelConfig) -> list[Cell]:
    saes = [s for s in saes_of(study) if s.model == model]
    sites = list(dict.fromkeys(s.site for s in saes))
    tokens = study.text.train_contexts * study.text.context
    estimate = SECONDS["text"] + SECONDS["packed"] * tokens
    text = Cell("text", model.key, {"lm": model.lm} | study.text.model_dump(mode="json"), (), estimate)
    contexts = harvested_contexts(study, model)
    settings = _lm(model) | {"sites": sites_of_model(study, model)} | study.harvest.own.model_dump(mode="json")
    settings |= {"contexts": contexts} if streamed(study, model) else {}
    estimate = SECONDS["harvest"] * contexts * study.text.context * _weight(model)
    harvest = Cell("harvest", model.key, settings, (text,), estimate)
    made = _made(study, model, saes, harvest)
    settings = _asked(model) | {"instructions": study.instructions, "seed": study.seed}
    settings |= {"max_new_tokens": study.steering.max_new_tokens}
    calibrate = Cell("calibrate", model.key, settings, (), SECONDS["calibrate"] * _weight(model))
    gates = {site: _gate(study, model, [s for s in saes if s.site == site and s.steer], made) for site in sites}
    ends = []
    for sae in saes:
        ends += _sae_cells(study, sae, (text, made[sae.name]), gates[sae.site], calibrate)
    matched = [c for path in model.paths for c in _match_cells(study, model, path, text, made)]
    matched += _repeat_cells(study, saes, made, {c.name for c in matched})
    return [*made.values(), *(gate for gate in gates.values() if gate is not None), *ends, *matched]


def _made(study: StudyConfig, model: ModelConfig, saes: Sequence[SaeSpec], harvest: Cell) -> dict[str, Cell]:
    """By SAE, the cell that it comes from."""
    own = [s for s in saes if s.adopted is None]
    adopted = {s.name: _adopt(s, harvest) for s in saes if s.adopted is not None}
    if streamed(study, model):
        cells = {name: _train_stream(study, model, name, part, harvest) for name, part in stream_runs(study, own)}
        by_sae = {s.name: cells[name] for name, part in stream_runs(study, own) for s in part}
        return {s.name: (by_sae | adopted)[s.name] for s in saes}
    runs = list(dict.fromkeys((s.site, s.reads, s.seed, s.steps) for s in own))
    trained = {
        run: _train(study, model, [s for s in own if (s.site, s.reads, s.seed, s.steps) == run], harvest)
        for run in runs
    }
    return {s.name: adopted.get(s.name) or trained[s.site, s.reads, s.seed, s.steps] for s in saes}


def _adopt(sae: SaeSpec, harvest: Cell) -> Cell:
    """The cell of an SAE that exists. Its key holds the sum of its weights and conventions, not where they lie."""
    assert sae.adopted is not None
    lm = _lm(sae.model) | {"as_read": sae.adopted.as_read}
    one = {"architecture": sae.architecture, "level": sae.level, "site": sae.site, "weights": adopted_as(sae)}
    return Cell("adopt", sae.name, lm | {"saes": {sae.name: one}}, (harvest,), SECONDS["adopt"] * _weight(sae.model))


def adopted_as(sae: SaeSpec) -> str:
    """What the settings of cells call the weights of an adopted SAE; `inputs.input_sums` gives their sum."""
    return f"weights of {sae.name}"


def _train(study: StudyConfig, model: ModelConfig, saes: Sequence[SaeSpec], harvest: Cell) -> Cell:
    site, reads, seed = saes[0].site, saes[0].reads, saes[0].seed
    settings = {
        "seed": _training_seed(study, saes[0]),
        "saes": {s.name: _trained_as(s) for s in saes},
        "training": _training(study, saes[0]),
    } | ({"reads": reads} if reads else {})
    parts = [model.key, *([f"from_{reads.partition('.')[0]}"] if reads else []), site, *([f"s{seed}"] if seed else [])]
    parts += [] if saes[0].steps is None else [f"steps_{saes[0].steps}"]
    return Cell("train", ".".join(parts), settings, (harvest,), step_seconds(study, saes))


def _train_stream(study: StudyConfig, model: ModelConfig, name: str, saes: Sequence[SaeSpec], harvest: Cell) -> Cell:
    """SAEs of several sites, trained on one pass of the language model."""
    settings = {
        "seed": seed_of(study.seed, "stream", model.key, saes[0].seed),
        "saes": {s.name: {**_trained_as(s), **_placed(study, s)} for s in saes},
        "training": _training(study, saes[0]),
        "stream": {"buffer_rows": study.harvest.buffer_rows},
    }
    estimate = step_seconds(study, saes) + pass_seconds(study, saes)
    return Cell("train", f"{model.key}.{name}", settings, (harvest,), estimate)


def trained_by(cell: Cell, saes: Sequence[SaeSpec]) -> list[SaeSpec]:
    """Those of a study's SAEs that a cell of training is of."""
    return [s for s in saes if s.name in cell.settings["saes"]]


def step_seconds(study: StudyConfig, saes: Sequence[SaeSpec]) -> float:
    """Estimated seconds of the steps of SAEs that are trained together."""
    training, width = training_of(study, saes[0]), size_of(saes[0].model.lm).d_model
    return SECONDS["train"] * training.steps * training.batch * width * sum(s.d_sae for s in trained(saes))


def pass_seconds(study: StudyConfig, saes: Sequence[SaeSpec]) -> float:
    """Estimated seconds of the language model's passes in training from the stream."""
    training = training_of(study, saes[0])
    return SECONDS["harvest"] * training.steps * training.batch * _weight(saes[0].model)


def _training(study: StudyConfig, sae: SaeSpec) -> Mapping[str, object]:
    # Where it is trained is no part of what is asked; the name stays, and so do the keys of former runs.
    return training_of(study, sae).model_dump(mode="json", exclude={"checkpoints"}) | {"device": "cpu"}


def _training_seed(study: StudyConfig, sae: SaeSpec) -> int:
    """Its own for every site: SAEs that start from the same weights are matched by their start (see LOG.md)."""
    own: tuple[int | str, ...] = (*((sae.reads,) if sae.reads else ()), *((sae.seed,) if sae.seed else ()))
    return seed_of(study.seed, "training", sae.model.key, sae.site, *own)


def _placed(study: StudyConfig, sae: SaeSpec) -> Mapping[str, object]:
    """What SAEs of one cell have each for themselves where the cell is of several sites."""
    return {"site": sae.site, "seed": _training_seed(study, sae)} | ({"reads": sae.reads} if sae.reads else {})


def _trained_as(sae: SaeSpec) -> Mapping[str, object]:
    """All that decides how an SAE of a grid is trained. Where its start lies is not part of it, its sum is."""
    start = {} if sae.start is None else {"start": sae.start_sha256}
    own = start if sae.freeze == "none" else start | {"freeze": sae.freeze}
    return {"architecture": sae.architecture, "level": sae.level, "d_sae": sae.d_sae} | sae.training_options | own


def _gate(study: StudyConfig, model: ModelConfig, saes: Sequence[SaeSpec], made: dict[str, Cell]) -> Cell | None:
    """The gate of a site, once all SAEs that are steered there are made; None where none is."""
    if not saes:
        return None
    sizes = dictionaries_of(saes)
    own = [s.name for s in saes if s.control is None] or [s.name for s in saes]  # of which the dose is chosen
    settings = _asked(model) | {"site": saes[0].site, "saes": own, "dictionaries": sizes}
    settings |= {"instructions": study.instructions} | study.instrument.settings
    inputs = tuple({cell.key: cell for cell in (made[s.name] for s in saes)}.values())
    estimate = SECONDS["gate"] * gate_texts(study.instrument, len(sizes)) * study.instrument.new_tokens
    return Cell("gate", f"{model.key}.{saes[0].site}", settings, inputs, estimate * _weight(model))


def dictionaries_of(saes: Sequence[SaeSpec]) -> list[tuple[int, int | None]]:
    """Width and level of the random dictionaries that stand beside the SAEs of a site; None: yet to be measured."""
    return sorted({(s.d_sae, s.level) for s in saes}, key=lambda d: (d[0], d[1] or 0))


def _sae_cells(
    study: StudyConfig, sae: SaeSpec, before: tuple[Cell, Cell], gate: Cell | None, calibrate: Cell
) -> list[Cell]:
    lm, weight = _lm(sae.model), _weight(sae.model)
    settings = lm | study.interp.model_dump(mode="json") | study.judge.identity | {"embeds": study.embeds}
    interp = Cell("interp", sae.name, settings, before, SECONDS["interp"] * weight)
    steered = sae.steer and gate is not None
    if not steered and not sae.effects:
        return [interp]
    settings = lm | study.selection.model_dump(mode="json")
    features = sae.d_sae if study.selection.features == "all" else min(study.interp.n_scored, sae.d_sae)
    select = Cell("select", sae.name, settings, (interp,), SECONDS["select"] * features * weight)
    if gate is None or not steered:
        return [interp, select]
    chosen = {"arms": study.steering.model_dump(mode="json")["arms"], "seed": study.steering.seed}
    settings = _asked(sae.model) | study.instrument.settings | {"instructions": study.instructions}
    tokens = steered_texts(study.instrument, study.steering.features) * study.instrument.new_tokens
    estimate = SECONDS["steer"] * tokens * weight
    steer = Cell("steer", sae.name, settings | {"chosen": chosen}, (interp, select, gate), estimate)
    if not study.rated:
        return [steer]
    settings = _asked(sae.model) | study.steering.model_dump(mode="json") | {"instructions": study.instructions}
    settings |= study.judge.identity
    inputs = (interp, select, calibrate) if study.judge.kind.per_model else (interp, select)
    return [steer, Cell("rate", sae.name, settings, inputs, SECONDS["rate"] * _steered_tokens(study) * weight)]


def _suite_cells(study: StudyConfig, ends: Sequence[Cell]) -> list[Cell]:
    """For every model the data sets of its suite, and for every SAE its evaluations: nothing else depends on them."""
    if study.suite is None:
        return []
    interp = {c.name: c for c in in_order(ends) if c.stage == "interp"}
    cells = []
    for model in study.models:
        saes = [s for s in saes_of(study) if s.model == model]
        own = _lm(model) | {"sites": list(dict.fromkeys(s.site for s in saes))}
        own |= {"seed": study.suite.seed}
        read = [
            Cell("read", f"{model.key}.{r.key}", own | r.model_dump(mode="json"), (), SECONDS["read"] * _weight(model))
            for r in data_sets_of(study.suite)
        ]
        settings = study.suite.model_dump(mode="json", exclude={"against"}) | study.judge.identity
        estimate = SECONDS["evaluate"] * _weight(model)
        cells += [Cell("evaluate", s.name, settings, (interp[s.name], *read), estimate) for s in saes]
    if study.suite.against is not None:
        ours = tuple(c for c in cells if c.stage == "evaluate")
        cells.append(Cell("published", study.name, {"against": study.suite.against}, ours, SECONDS["published"]))
    return cells


def _anchor_cells(study: StudyConfig, judged: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The first and the last round over the anchors of a judge that is a model: before and after all that it judges."""
    if not study.judge.kind.takes:
        return [], []
    start = Cell("anchors", "start", study.judge.identity, (), SECONDS["anchors"])
    return [start], [Cell("anchors", "end", study.judge.identity, (start, *judged), SECONDS["anchors"])]


def _lm(model: ModelConfig) -> dict[str, str]:
    """The settings that say which weights a model runs with."""
    own = {"lm": model.lm, "dtype": model.dtype}
    return own if model.control is None else own | {"control": model.control}


def _asked(model: ModelConfig) -> dict[str, str]:
    """The settings of a model that answers instructions."""
    said = {"template": model.template, "system": model.system}
    return _lm(model) | {k: v for k, v in said.items() if v is not None}


def _steered_tokens(study: StudyConfig) -> int:
    c = study.steering
    return budget(c, c.features + c.n_control, c.features).tokens


def _weight(model: ModelConfig) -> float:
    """How much longer than for the base model a pass of the LM takes."""
    return size_of(model.lm).parameters / BASE.parameters


def _match_cells(
    study: StudyConfig, model: ModelConfig, path: PathConfig, text: Cell, made: dict[str, Cell]
) -> list[Cell]:
    saes = path_saes(study, model, path)
    names = [s.name for s in saes]
    settings = _lm(model) | study.matching.model_dump(mode="json")
    cells: list[Cell] = []
    runs = [made[s.name] for s in saes]
    for i, (first, second) in enumerate(pairwise(names)):
        inputs = (text, runs[i], runs[i + 1])
        cells.append(Cell("match", f"{first}--{second}", settings, inputs, SECONDS["match"]))
    if len(names) > 2:  # end to end: the composition of the steps beside the direct matching
        inputs = (text, runs[0], runs[-1], *cells)
        cells.append(Cell("match", f"{names[0]}--{names[-1]}", settings | {"path": names}, inputs, SECONDS["match"]))
    return cells


def _repeat_cells(
    study: StudyConfig, saes: Sequence[SaeSpec], made: dict[str, Cell], paths: Collection[str]
) -> list[Cell]:
    """Every two trainings of one SAE of a grid, matched; what a path matches already is left to it."""
    found = []
    for first, second in combinations(saes, 2):
        name = f"{first.name}--{second.name}"
        if repeats(first, second) and name not in paths:
            inputs = (made[first.name], made[second.name])
            found.append(Cell("match", name, {"repeat": True, "seed": study.matching.seed}, inputs, SECONDS["again"]))
    return found
