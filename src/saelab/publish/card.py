"""The model card of an SAE or a transcoder: what somebody needs to use it, and to judge it, without asking who made it.

LM, site, data and their revision, tokens, L0, FVU, dead share, seed and versions are required; a fact that is not known
is named as missing, never left out and never guessed. The head of the card is what the Hugging Face hub and SAELens
read (base model, tags, library, metrics). Nothing is measured here, and no file is read.
"""

import json
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from saelab.core.errors import UserError, nearest
from saelab.lm.sources import reference_of
from saelab.saes.base import Sae
from saelab.saes.formats import holding
from saelab.saes.formats.conventions import unit_of_codes
from saelab.saes.transcoder import Transcoder

# fact -> what the card calls it
REQUIRED = {
    "lm": "language model",
    "site": "site",
    "data": "training data",
    "data_revision": "revision of the data",
    "tokens": "tokens trained on",
    "l0": "L0",
    "fvu": "FVU",
    "dead_share": "dead share",
    "seed": "seed",
    "versions": "versions",
}
OPTIONAL = {"lm_weights": "weights of the language model", "measured_on": "measured on", "license": "licence"}
NOT_RECORDED = "not recorded"
_METRICS = {"l0": "L0", "fvu": "FVU", "dead_share": "Dead latents (share)", "ce_recovered": "CE recovered (mean)"}


@dataclass(frozen=True)
class SaeCard:
    """Facts by name (REQUIRED, OPTIONAL) and whatever else was measured, `metrics`."""

    facts: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Required facts that are not known."""
        return [name for name in REQUIRED if self.facts.get(name) in (None, "", {})]

    def given(self, pairs: list[str]) -> "SaeCard":
        """With facts that somebody states: `NAME=VALUE`."""
        stated = dict(_stated(pair) for pair in pairs)
        numbers = {n: float(v) for n, v in stated.items() if n in _METRICS}
        return SaeCard(self.facts | stated | numbers, self.metrics)


def card_of(sae: Sae | Transcoder, run: dict[str, Any] | None = None) -> SaeCard:
    """What the SAE's own files say, and over it what the run that trained it knows (study/published.py)."""
    cfg, said = sae.cfg, sae.cfg.metadata
    facts = {
        "lm": cfg.lm,
        "site": cfg.site,
        "data": said.get("dataset_path") or said.get("data"),
        "data_revision": said.get("data_revision"),
        "tokens": said.get("tokens_trained") or said.get("training_tokens"),
        "l0": said.get("l0"),
        "fvu": said.get("fvu"),
        "dead_share": said.get("dead_share"),
        "seed": said.get("seed"),
        "versions": said.get("versions") or _library(said),
    }
    known = {k: v for k, v in (run or {}).items() if v is not None}
    metrics = known.pop("metrics", {})
    return SaeCard(facts | known, metrics)


def written(card: SaeCard, sae: Sae | Transcoder, reference: str) -> str:
    """The card as Markdown with its head in YAML. reference: where the SAE will lie."""
    cfg, facts = sae.cfg, card.facts
    what, door = ("Sparse autoencoder", "saelab") if isinstance(sae, Sae) else ("Transcoder", "saelab.saes.formats")
    loads = "sae" if isinstance(sae, Sae) else "transcoder"
    architecture = sae.cfg.architecture if isinstance(sae, Sae) else sae.cfg.act_fn
    lines = ["---", _head(card, holding(sae), architecture, reference), "---", ""]
    lines += [f"# {what}: {architecture}, {cfg.d_sae} latents, {facts.get('site') or NOT_RECORDED}", ""]
    lines += ["| | |", "|---|---|"]
    rows = {label: facts.get(name) for name, label in (REQUIRED | OPTIONAL).items()}
    rows = {label: value for label, value in rows.items() if value is not None or label not in OPTIONAL.values()}
    rows |= {"architecture": architecture, "width of activations": cfg.d_in, "latents": cfg.d_sae}
    rows |= {"k": cfg.k} if cfg.k else {}
    if isinstance(sae, Sae):
        rows |= {"encodes as": sae.saelens_name, "unit of codes": unit_of_codes(sae)}
        rows |= {"b_dec subtracted from the input": sae.cfg.subtract_b_dec}
    else:
        rows |= {"writes": sae.cfg.site_out, "skip connection": "W_skip" in sae.weights()}
    lines += [f"| {label} | {_cell(value)} |" for label, value in rows.items()]
    if card.metrics:
        lines += ["", "## Measured", "", "| measure | value |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in card.metrics.items()]
    if isinstance(training := cfg.metadata.get("training"), dict):
        lines += ["", "## Training settings", "", "```json", json.dumps(training, indent=2), "```"]
    lines += ["", "## Use", "", "```python", f"import {door}", f"sae = {door}.load_{loads}({reference!r})"]
    lines += ["codes = sae.encode(activations)", "```", ""]
    named = quote(reference_of(cfg.lm or "") or "NAME")
    lines += [f"Check it: `saelab inspect {quote(reference)} --lm {named}`. Written by saelab.", ""]
    return "\n".join(lines)


def _head(card: SaeCard, layout: str, architecture: str, reference: str) -> str:
    """What the hub reads, as its own library writes it in YAML. layout: the library whose files the SAE lies in."""
    facts = card.facts
    lm, data = (str(facts.get(name) or "") for name in ("lm", "data"))
    on = str(facts.get("measured_on") or data or NOT_RECORDED)
    values = {k: facts.get(k, card.metrics.get(k)) for k in _METRICS}
    measured = [
        EvalResult(
            task_type="feature-extraction", task_name="sparse coding of activations", dataset_type=on, dataset_name=on,
            metric_type=name, metric_name=_METRICS[name], metric_value=value,
        )
        for name, value in values.items() if isinstance(value, int | float)
    ]  # fmt: skip
    return ModelCardData(
        library_name=layout,  # what the hub finds it by
        tags=["sparse-autoencoder", layout, "saelab", "mechanistic-interpretability", architecture],
        base_model=_repository(lm) if lm.startswith("hf:") else None,
        datasets=[_repository(data)] if data.startswith("hf:") else None,
        license=facts.get("license"),
        model_name=reference.rsplit("/", 1)[-1],
        eval_results=measured or None,
    ).to_yaml()


def _stated(pair: str) -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not equals or name not in REQUIRED | OPTIONAL:
        hint = f"NAME=VALUE. {nearest(name, REQUIRED | OPTIONAL)}"
        raise UserError(f"{pair!r} is no fact of a model card.", hint=hint)
    if name in _METRICS:
        try:
            float(value)
        except ValueError:
            raise UserError(f"{name} is a number; {value!r} is none.") from None
    return name, value


def _library(said: dict[str, Any]) -> dict[str, str] | None:
    version = said.get("sae_lens_training_version")
    return {"sae_lens": version} if version else None


def _repository(reference: Any) -> str:
    return str(reference).removeprefix("hf:").split("@")[0]


def _cell(value: Any) -> str:
    """One cell of a table: names come from elsewhere, so a bar or a line break must not break the table."""
    if value is None or value == {}:
        return NOT_RECORDED
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
