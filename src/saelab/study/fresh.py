"""A study file from a few words: what language model, where, which SAEs, on what text, and sized for this machine."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import yaml

from saelab.core.errors import UserError
from saelab.study.checks import accepted
from saelab.study.costs import seconds_here
from saelab.study.spec import StudyConfig

CONTEXT, BATCH, HELD_OUT = 128, 2048, 64
SITE, LEVELS = "resid_post.15", ("16", "64")  # where nothing is said
TRAINED = ("text", "harvest", "train")  # stages up to the SAEs
SIZES, LONGEST = (10**7, 5 * 10**6, 2 * 10**6, 10**6, 5 * 10**5), 900  # tokens where none are asked for; seconds
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
text:
{corpus}  context: {context}
  train_contexts: {train}        # {tokens} tokens
  held_out_contexts: {held_out}
training: {{steps: {steps}, batch: {batch}}}      # each token about once
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


def made(wanted: Wanted) -> tuple[str, StudyConfig]:
    """The study file and what it says, sized for this machine where no size is asked for."""
    sizes = SIZES if wanted.tokens is None else (wanted.tokens,)
    text = ""
    for tokens in sizes:
        text = study_text(replace(wanted, tokens=tokens))
        if tokens == sizes[-1] or seconds_here(StudyConfig.parse(yaml.safe_load(text)), TRAINED) <= LONGEST:
            break
    return text, accepted(yaml.safe_load(text), origin="the command line")


def study_text(wanted: Wanted) -> str:
    """The study file, with a comment where a word needs one."""
    contexts = max(1, round((wanted.tokens or SIZES[-1]) / CONTEXT))
    steps = max(1, round(contexts * CONTEXT / BATCH))
    lm, text = json.dumps(wanted.lm, ensure_ascii=False), wanted.text
    corpus = "" if text is None else f"  corpus: {{source: {json.dumps(text, ensure_ascii=False)}}}\n"
    return TEMPLATE.format(
        name=wanted.name or named(wanted),
        lm=lm,
        sites=", ".join(wanted.sites),
        architectures=", ".join(wanted.architectures),
        levels=", ".join(wanted.levels),
        d_sae=wanted.d_sae,
        corpus=corpus,
        context=CONTEXT,
        train=contexts,
        tokens=f"{contexts * CONTEXT:,}",
        held_out=HELD_OUT,
        steps=steps,
        batch=BATCH,
    )


def named(wanted: Wanted) -> str:
    """A study's name by its language model and first site."""
    last = re.sub(r"[^\w.-]+", "-", wanted.lm.rpartition("/")[2].rpartition(":")[2]).strip("-.")
    return f"{last or 'study'}-{wanted.sites[0]}"


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
