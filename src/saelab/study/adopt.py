"""The stage that stands where training does for an SAE that exists: it is opened, proved on held-out text, and kept.

What it leaves is its native folder, as training leaves one (none where it is kept by reference), and a record: its
state, a sentence, and the L0 that was measured. An SAE that is not ok is scored by no stage, and the study goes on
without it. Which SAEs a stage works on is asked of `standing`: it leaves those out, and fills in a level that had to be
measured.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from saelab.activations.site import read_site
from saelab.core.errors import ArtefactError, UserError
from saelab.interp.proof import as_record, prove
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.saes.formats import load_sae, load_transcoder, save_sae
from saelab.saes.given import GivenSae
from saelab.saes.transcoder import AnySae, Transcoder
from saelab.store.artefacts import Record
from saelab.store.layout import RunFolder
from saelab.study.grids import AdoptedConfig
from saelab.study.opening import reopened
from saelab.study.spec import SaeSpec, StudyConfig, saes_of
from saelab.text.pack import PackedText

CONTEXTS = 16  # of the held-out text, on which an SAE is proved
ROWS = 4096  # that are encoded at once


def run(spec: SaeSpec, one: AdoptedConfig, lm: LanguageModel, held_out: PackedText, run: RunFolder) -> list[Path]:
    """Adopt an SAE and return the files written.

    State of the record: ok, damaged (weights, codes or reconstructions that are no numbers), wrong_reading (another
    convention fits clearly better, or its L0 is not the claimed one; `as_read` scores it all the same),
    not_kept (its encoder has no native form). Raises `ArtefactError` where its files are not those that the study was
    begun with, and the errors of `load_sae` where they are gone.
    """
    sae = reopened(spec)
    record: dict[str, Any] = {"state": "ok", "sentence": None, "level": spec.level, "proof": None}
    if broken := [name for name, tensor in sae.weights().items() if not bool(torch.isfinite(tensor).all())]:
        record |= {"state": "damaged", "sentence": f"It holds NaN or infinite values in {' and '.join(broken)}."}
        return [_record(run, spec).write(record)]
    text = held_out.first(CONTEXTS)
    proof = prove(lm, sae, text, site=spec.site)
    if not math.isfinite(proof.declared.fvu + proof.declared.l0):
        what = "Its codes or reconstructions of held-out text are NaN or infinite."
        return [_record(run, spec).write(record | {"state": "damaged", "sentence": what})]
    record |= {
        "sentence": proof.verdict,
        "proof": as_record(proof),
        "fvu_of_contexts": _by_context(lm, sae, text, spec),
    }
    if spec.level is None:
        record["level"] = min(max(1, round(proof.declared.l0)), spec.d_sae)
    if not proof.holds and not one.as_read:
        return [_record(run, spec).write(record | {"state": "wrong_reading"})]
    if one.keep == "reference" or isinstance(sae, GivenSae):
        return [_record(run, spec).write(record | {"kept": "reference"})]
    try:
        save_sae(sae, run.sae(spec.name))
    except UserError as error:
        return [_record(run, spec).write(record | {"state": "not_kept", "sentence": str(error)})]
    return [*sorted(run.sae(spec.name).iterdir()), _record(run, spec).write(record)]


def _by_context(lm: LanguageModel, sae: Sae, text: PackedText, spec: SaeSpec) -> list[float]:
    """What each context adds to the FVU, times their number: the mean over contexts is the FVU of all."""
    clean = read_site(lm, text, spec.site)
    rows, contexts = clean.rows, clean.kept.nonzero()[:, 0]
    with torch.inference_mode():
        error = torch.cat([(x - sae(x)).double().square().sum(1) for x in rows.split(ROWS)])
    found = torch.zeros(len(text.tokens), dtype=torch.float64).index_add_(0, contexts, error)
    spread = (rows.double() - rows.double().mean(0)).square().sum()
    return (found * len(found) / spread).tolist()


def standing(study: StudyConfig, run: RunFolder, names: Iterable[str] | None = None) -> list[SaeSpec]:
    """The SAEs that are scored, with their levels. names: only these. Those that are adopted must have been."""
    found: list[SaeSpec] = []
    chosen = None if names is None else set(names)
    for spec in saes_of(study):
        if chosen is not None and spec.name not in chosen:
            continue
        if spec.adopted is None:
            found.append(spec)
        elif (record := _record(run, spec).read())["state"] == "ok":
            found.append(spec.model_copy(update={"level": record["level"]}))
    return found


def asked_about(study: StudyConfig, run: RunFolder) -> list[SaeSpec]:
    """The SAEs of which claims are made: those that stand and are no controls; of a study of controls alone, these."""
    found = standing(study, run)
    return [s for s in found if s.control is None] or found


def sae_of(spec: SaeSpec, run: RunFolder) -> Sae:
    """The same of an SAE; an `ArtefactError` where it is a transcoder."""
    found = coder_of(spec, run)
    if isinstance(found, Transcoder):
        raise ArtefactError(f"{spec.name} is a transcoder, and an SAE was asked for.")
    return found


def coder_of(spec: SaeSpec, run: RunFolder) -> AnySae:
    """An SAE or transcoder of a study, trained or adopted: its copy in the run, or where it lies if none was kept.

    Raises the errors of `load_sae` and `reopened`.
    """
    if spec.adopted is not None and _record(run, spec).read().get("kept") == "reference":
        return reopened(spec)
    return load_sae(run.sae(spec.name)) if spec.reads is None else load_transcoder(run.sae(spec.name))


def fallen(study: StudyConfig, run: RunFolder) -> list[SaeSpec]:
    """The SAEs that could not be adopted."""
    return [s for s in saes_of(study) if s.adopted is not None and _record(run, s).read()["state"] != "ok"]


def adopted_rows(study: StudyConfig, run: RunFolder) -> list[dict[str, Any]]:
    """Of every SAE that is adopted: where it came from, whether it is scored and why not, and how it was read.

    level_from: declared, stated (in its files) or measured. overlap: what is known of its training text and the text
    that scores were held out for: unknown, same_source or another_source, as far as its files name their text.
    """
    text = study.text.corpus.source
    return [_row(s, s.adopted, _record(run, s).read(), text) for s in saes_of(study) if s.adopted is not None]


def _row(spec: SaeSpec, one: AdoptedConfig, record: dict[str, Any], text: str) -> dict[str, Any]:
    named = None if one.found is None else one.found.text
    same = named is not None and named.removeprefix("hf:") == text.removeprefix("hf:").partition("@")[0]
    found, proof = one.found, record["proof"] or {}
    own = None if found is None else found.lm
    level_from = "declared" if one.level else "stated" if spec.level else "measured"
    return {
        "sae": spec.name, "reference": one.ref, "state": record["state"], "sentence": record["sentence"],
        "level": record["level"], "level_from": level_from, "l0": proof.get("l0"), "fvu": proof.get("fvu"),
        "doubted": record["state"] == "ok" and proof.get("holds") is False, "declared": one.declared,
        "lm": own, "forced_lm": one.force_lm, "sha256": None if found is None else found.sha256,
        "text": named, "overlap": "unknown" if named is None else "same_source" if same else "another_source",
    }  # fmt: skip


def _record(run: RunFolder, spec: SaeSpec) -> Record:
    return run.adopted(spec.name)
