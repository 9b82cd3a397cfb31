"""From a finished run to the story of its paths: which SAEs are its steps, its chain and its levels, and their texts.

Needs trained and described SAEs; matchings are made anew, by every way that is drawn. Must never know how it is drawn.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Term
from saelab.interp.features.codes import encode_codes
from saelab.interp.features.describe import DescribingText, describe
from saelab.interp.features.windows import TEST, Passages, WindowFinder
from saelab.interp.run import harvested_rows
from saelab.judges.client import Judge
from saelab.matching.story import Member, Story
from saelab.store.layout import RunFolder
from saelab.study.spec import ModelConfig, SaeSpec, StudyConfig, path_saes, saes_of
from saelab.study.workspace import HELD_OUT, TRAIN, Workspace
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import pack_for

HELD = "held-out text"
Step = tuple[SaeSpec, SaeSpec]


def stories(
    run: RunFolder,
    *,
    judge: Judge,
    scale: bool,
    corpora: Sequence[str] = (),
    contexts: int = 24,
    loss_contexts: int = 8,
    pairs: int = 100,
    progress: Progress = SILENT,
) -> list[Story]:
    """A story for every language model of a run that follows features. corpora: further texts, by reference.

    Raises `UserError` where the run follows none.
    """
    study = following(run)
    work = Workspace(study, run, progress)
    found = []
    for model in (m for m in study.models if m.paths):
        steps, chain, levels = followed(study, model)
        specs = {s.name: s for s in [*(s for pair in (*steps, *levels) for s in pair), *chain]}
        lm = work.lm(model)
        strings = lm.token_texts(range(lm.vocab_size))
        members = {name: _member(work, spec, strings) for name, spec in specs.items()}
        texts = {HELD: work.text(model, HELD_OUT)}
        for source in corpora:
            documents = iter_documents(CorpusConfig(source=source))
            size = {"context": study.text.context, "n_contexts": contexts}
            texts[_named(source)] = pack_for(lm, documents, progress=progress, **size)
        sides = _of(members, steps), [members[s.name] for s in chain], _of(members, levels)
        found.append(Story(lm, texts, *sides, judge, scale, contexts, loss_contexts, pairs, study.seed, progress))
    return found


def following(run: RunFolder) -> StudyConfig:
    """The study of a run that follows features. Raises `UserError` where the run follows none."""
    run.check_readable()
    study = StudyConfig.from_yaml(run.study)
    if not any(model.paths for model in study.models):
        raise UserError(f"{run.root} follows no feature from site to site.", hint="Give its study `paths`.")
    return study


def followed(study: StudyConfig, model: ModelConfig) -> tuple[list[Step], list[SaeSpec], list[Step]]:
    """The steps, the chain and the levels of a model's paths.

    The chain is the longest path. Steps are those of every path of the chain's architecture and level; levels are the
    pairs of SAEs, an L0 each, at the two sites of the chain at which most levels were trained.
    """
    paths = [path_saes(study, model, path) for path in model.paths]
    chain = max(paths, key=len)
    first = chain[0]
    alike = [p for p in paths if (p[0].architecture, p[0].level) == (first.architecture, first.level)]
    steps = list(dict.fromkeys((a.name, b.name) for path in alike for a, b in pairwise(path)))
    named = {s.name: s for path in paths for s in path}
    alike_but_level = (first.architecture, first.d_sae, 0, None, first.freeze, first.steps)
    kin = [
        s
        for s in saes_of(study)
        if s.model == model and (s.architecture, s.d_sae, s.seed, s.reads, s.freeze, s.steps) == alike_but_level
    ]
    best: list[Step] = []
    for a, b in pairwise(chain):
        sides = [{s.level: s for s in kin if s.site == end.site} for end in (a, b)]
        pairs = [(sides[0][k], sides[1][k]) for k in sorted(set(sides[0]) & set(sides[1]), key=lambda k: k or 0)]
        best = max(best, pairs, key=len)
    order = sorted(steps, key=lambda pair: int(named[pair[1]].site.rpartition(".")[2]))
    return [(named[a], named[b]) for a, b in order], chain, best if len(best) > 1 else []


def _of(members: Mapping[str, Member], pairs: Sequence[Step]) -> list[tuple[Member, Member]]:
    return [(members[a.name], members[b.name]) for a, b in pairs]


def _member(work: Workspace, spec: SaeSpec, strings: Sequence[str]) -> Member:
    table = work.run.interp(spec.name).features
    if not table.exists:
        raise ArtefactError(f"The features of {spec.name} have not been described.", hint="saelab run goes on with it.")
    rows = table.read(["feature", "description", "terms"]).filter(pl.col("description").is_not_null())
    described = {
        row["feature"]: Description(row["description"], tuple(Term(**t) for t in row["terms"]))
        for row in rows.iter_rows(named=True)
    }
    return Member(spec.name, spec.site, spec.known_level, work.sae(spec.name), described, _again(work, spec, strings))


def _again(work: Workspace, spec: SaeSpec, strings: Sequence[str]) -> dict[int, Description]:
    """The features described once more, by the other half of the text that was harvested."""
    config, packed = work.study.interp, work.text(spec.model, TRAIN)
    rows, places = harvested_rows(work.shards(spec.model, spec.site), config.window_rows, packed.context)
    contexts = int(places[-1]) // packed.context + 1
    passages = Passages(packed.tokens[:contexts].numpy(), packed.document_ids[:contexts].numpy())
    finder = WindowFinder.over(passages, config.windows)
    codes = encode_codes(work.sae(spec.name).encode, rows, places)
    read = np.zeros(passages.tokens.size, bool)
    read[places] = True
    text = DescribingText.over(passages, read & (finder.sides == TEST), strings)
    largest = np.array([codes.of(f)[1].max(initial=0.0) for f in range(codes.n_features)])
    return describe(codes, text, largest, config.describe)


def _named(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2].rpartition(":")[2] or source
