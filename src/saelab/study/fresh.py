"""A study file from a few words: what language model, where, which SAEs, on what text, and sized for this machine."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from saelab.core.errors import UserError
from saelab.core.sites import parse_site
from saelab.saes.catalogue import ARCHITECTURES, level_key
from saelab.study.checks import accepted
from saelab.study.costs import seconds_here
from saelab.study.grids import AdoptedConfig, Option
from saelab.study.opening import open_sae, opened_one
from saelab.study.spec import StudyConfig

CONTEXT, BATCH = 128, 2048
HELD_OUT, SHARE = (8, 64), 8  # least and most contexts held out; otherwise one in so many of those trained on
SITE, LEVELS = "resid_post.15", ("16", "64")  # where nothing is said
TRAINED = ("text", "harvest", "train")  # stages up to the SAEs
SIZES, LONGEST = (10**7, 5 * 10**6, 2 * 10**6, 10**6, 5 * 10**5), 900  # tokens where none are asked for; seconds
FLAGS = {  # what the keys of a study are called on the command line
    ("models", "lm"): "--lm",
    ("models", "grids", "sites"): "--site",
    ("models", "grids", "architectures"): "--arch",
    ("models", "grids", "levels"): "--l0",
    ("models", "grids", "d_sae"): "--d-sae",
    ("models", "grids", "start"): "--from",
    ("models", "grids", "target"): "--to",
    ("text", "corpus", "source"): "--text",
    ("training", "batch"): "--tokens",
}
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
TEMPLATE = """\
# A study of saelab. `saelab plan FILE` says what it takes and what it can see; `saelab run FILE` runs it, and goes on
# after any interruption. Every key: docs/study.md, or `saelab new --schema`.
name: {name}
seed: 0
models:
  - lm: {lm}
    grids:
      - sites: [{sites}]
        architectures: [{architectures}]
        levels: [{levels}]            # L0: active features per token
        d_sae: {d_sae}
{further}text:
{corpus}  context: {context}
  train_contexts: {train}        # {tokens} tokens
  held_out_contexts: {held_out}
{stream}training: {{steps: {steps}, batch: {batch}}}      # each token about once
judge: lexical                    # no language model; or local:LM, openai:MODEL
selection:
  criteria: [delta_confidence, output_score]
  features: tested                # effects of the features whose description is tested; all: of every feature
steering:
  arms:
    - {{criterion: output_score, n: 8}}
    - {{random: 24}}                # the SAE without selection; more of them see smaller differences
instrument:
  doses: [0.2, 0.5]               # nats of KL per token, of which dev chooses
"""


@dataclass(frozen=True)
class Wanted:
    """What a study is asked for. text: a reference, None: the embedded corpus. tokens: of training; None: the most of
    `SIZES` that are SAEs within `LONGEST` seconds here.
    """

    lm: str
    sites: Sequence[str]
    architectures: Sequence[str]
    levels: Sequence[str]
    d_sae: int
    text: str | None = None
    tokens: int | None = None
    name: str | None = None
    start: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    freeze: str = "none"
    target: str | None = None
    stream: bool = False


def further(reference: str, asked: Wanted) -> Wanted:
    """`asked`, with what it leaves open as the SAE at `reference` says it: training goes on from that.

    An empty lm, no sites, architectures or levels, and d_sae 0 are open. Raises `UserError` for what neither says,
    and the errors of `load_sae`.
    """
    from saelab.training.start import trained_as

    one = opened_one(AdoptedConfig(ref=reference))
    sae = open_sae(one)
    found, fits = one.found, trained_as(sae)
    assert found is not None
    lm, sites = asked.lm or found.lm, asked.sites or ([found.site] if found.site else [])
    if not fits:
        raise UserError(f"{reference} encodes as {sae.saelens_name}, which saelab does not train.")
    either = f"Can: {', '.join(fits)}."
    if others := [name for name in asked.architectures if name not in fits]:
        raise UserError(f"{others[0]} cannot begin with {reference}, which encodes as {sae.saelens_name}.", hint=either)
    levels = asked.levels or ([str(found.level)] if found.level else [])
    for missing, flag in ((lm, "--lm"), (sites, "--site"), (levels, "--l0")):
        if not missing:
            raise UserError(f"{reference} does not say it: give {flag}.")
    said = sae.cfg.metadata.get("training")
    said = said if isinstance(said, dict) else {}
    own = (said.get("architecture"), found.architecture, sae.saelens_name)  # its files say how it encodes
    usual = next((name for name in own if name in fits), fits[0])
    kept = {} if asked.architectures else said
    freeze = "decoder" if kept.get("frozen_decoder") else str(kept.get("freeze", "none"))  # the former key
    text = found.text if found.text and found.text.startswith(("path:", "hf:")) else None
    return replace(
        asked,
        lm=str(lm),
        sites=sites,
        architectures=asked.architectures or [usual],
        levels=levels,
        d_sae=found.d_sae,
        text=asked.text or text,
        start=reference,
        options=_own_options(usual, kept),
        freeze=freeze,
    )


def _own_options(architecture: str, training: Mapping[str, Any]) -> dict[str, Option]:
    """The settings of a finished training that are not those which it would have without a word."""
    kind, own = ARCHITECTURES[architecture], {"architecture", "d_in", "d_out", "d_sae", "freeze"}
    own |= {level_key(architecture)}
    usual = {name: f.default for name, f in kind.model_fields.items() if name not in own}
    differ = {name: value for name, value in training.items() if name in usual and value != usual[name]}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in differ.items()}


def made(wanted: Wanted) -> tuple[str, StudyConfig]:
    """The study file and what it says, sized for this machine where no size is asked for."""
    sizes = SIZES if wanted.tokens is None else (wanted.tokens,)
    text = ""
    for tokens in sizes:
        text = study_text(replace(wanted, tokens=tokens))
        study = accepted(yaml.safe_load(text), origin="What was asked for", names=FLAGS)
        if tokens == sizes[-1] or seconds_here(study, TRAINED) <= LONGEST:
            return text, study
    raise AssertionError("a last size is always taken")


def study_text(wanted: Wanted) -> str:
    """The study file, with a comment where a word needs one."""
    contexts = max(1, round((wanted.tokens or SIZES[-1]) / CONTEXT))
    steps = max(1, round(contexts * CONTEXT / BATCH))
    corpus = "" if wanted.text is None else f"  corpus: {{source: {_quoted(wanted.text)}}}\n"
    return TEMPLATE.format(
        name=wanted.name or named(wanted),
        lm=_quoted(wanted.lm),
        sites=_listed(wanted.sites),
        architectures=_listed(wanted.architectures),
        levels=", ".join(wanted.levels),
        d_sae=wanted.d_sae,
        further=_further_lines(wanted),
        stream="harvest: {stream: true} # SAEs are trained as the language model runs\n" if wanted.stream else "",
        corpus=corpus,
        context=CONTEXT,
        train=contexts,
        tokens=f"{contexts * CONTEXT:,}",
        held_out=min(HELD_OUT[1], max(HELD_OUT[0], contexts // SHARE)),
        steps=steps,
        batch=BATCH,
    )


def _further_lines(wanted: Wanted) -> str:
    lines = "" if wanted.start is None else f"        start: {_quoted(wanted.start)}   # training goes on from it\n"
    lines += "" if wanted.freeze == "none" else f"        freeze: [{wanted.freeze}]   # stays as it began\n"
    lines += "" if wanted.target is None else f"        target: {wanted.target}   # transcoders: what they rebuild\n"
    return lines + (f"        options: {json.dumps(dict(wanted.options))}\n" if wanted.options else "")


def _listed(words: Sequence[str]) -> str:
    """Words of a YAML list, in quotes where YAML would read something else."""
    return ", ".join(word if re.fullmatch(r"[A-Za-z][\w.]*", word) else _quoted(word) for word in words)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def named(wanted: Wanted) -> str:
    """A study's name by its language model and first site."""
    last = re.sub(r"[^\w.-]+", "-", wanted.lm.rpartition("/")[2].rpartition(":")[2]).strip("-.")
    return f"{last or 'study'}-{wanted.sites[0]}{'-further' if wanted.start else ''}"


def target_kind(said: str | None, sites: Sequence[str]) -> str | None:
    """The kind of site that `--to` names, alone or with the block of the sites: mlp_out, mlp_out.15."""
    if said is None or "." not in said:
        return said
    site = parse_site(said)
    if any(parse_site(read).layer != site.layer for read in sites):
        raise UserError(
            f"{said} is in another block than {', '.join(sites)}.", hint=f"Say the kind alone: {site.kind}."
        )
    return site.kind


def count_of(said: str) -> int:
    """A number of tokens as people write it: 2M, 500K, 1_000_000. Raises `UserError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMB]?)", said.replace("_", "").replace(",", "").upper())
    count = round(float(found[1]) * UNITS[found[2]]) if found else 0
    if count < 1:
        raise UserError(f"{said!r} is no number of tokens.", hint="Write 500000, 500K or 2M.")
    return count


def split(values: Sequence[str]) -> list[str]:
    """Words after one another or between commas: both are written."""
    return [word for value in values for word in value.split(",") if word]
