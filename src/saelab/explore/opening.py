"""The SAEs that an explorer is given: those of run folders, those in run folders, and those by themselves.

Opening reads settings and the weights of SAEs of no run. Where the material of each lies is decided here. Must never
know what is shown of a feature.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.saes.base import Sae
from saelab.saes.formats import load
from saelab.store.cache import cache_folder
from saelab.store.files import is_there
from saelab.store.folders import MaterialFolder
from saelab.store.layout import RunFolder
from saelab.store.references import local
from saelab.store.tables import read_table
from saelab.study.adopt import sae_of, standing
from saelab.study.spec import SaeSpec, StudyConfig


@dataclass
class OpenedSae:
    """One SAE. name: what it is called here. run, spec: where it belongs to a run."""

    name: str
    reference: str
    site: str | None
    lm: str | None
    d_sae: int
    architecture: str
    run: RunFolder | None = None
    spec: SaeSpec | None = None
    text: str | None = None
    loaded: Sae | None = None
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def sae(self) -> Sae:
        """The SAE itself."""
        with self._lock:
            if self.loaded is None:
                assert self.run is not None and self.spec is not None
                self.loaded = sae_of(self.spec, self.run)
            return self.loaded

    @cached_property
    def material_folder(self) -> MaterialFolder:
        """Where its material lies: in its run, or in the cache."""
        if self.run is not None and self.spec is not None:
            return self.run.interp(self.spec.name).material
        return folder_alone(self.sae, self.lm, self.text)

    def table(self, of: str) -> pl.DataFrame | None:
        """A table of its run: features, contexts, effects, outcomes or readings; None where there is none."""
        if self.run is None or self.spec is None:
            return None
        name = self.spec.name
        places = {
            "features": self.run.interp(name).features,
            "contexts": self.run.interp(name).contexts,
            "effects": self.run.selection(name).effects,
            "outcomes": self.run.steering(name).outcomes,
            "readings": self.run.steering(name).readings,
        }
        return read_table(places[of].path, ["feature"]) if places[of].exists else None


def folder_alone(sae: Sae, lm: str | None, text: str | None) -> MaterialFolder:
    """Where the material of an SAE of no run is kept: in the cache, under what it is and what it is read with."""
    inputs = hashlib.sha256(sae.W_dec.contiguous().numpy().data)
    inputs.update(sae.b_enc.contiguous().numpy().data)
    inputs.update(repr((lm, sae.cfg.site, text)).encode())
    return MaterialFolder(cache_folder() / "material" / inputs.hexdigest()[:24])


def trained_on(sae: Sae) -> str | None:
    """The text that an SAE's files name, where it lies here."""
    named = sae.cfg.metadata.get("dataset_path")
    return named if isinstance(named, str) and named.startswith("path:") and is_there(named[5:]) else None


def open_saes(
    refs: Sequence[str | Path], *, lm: str | None = None, text: str | None = None, progress: Progress = SILENT
) -> list[OpenedSae]:
    """The SAEs of run folders, and of references or folders of SAEs; no two have the same name.

    lm, text: language model that those of no run are read with, and what they are read from. Raises `UserError` for
    what is neither run nor SAE.
    """
    found: list[OpenedSae] = []
    for ref in refs:
        with progress.task(f"opening {ref}"):
            found += _opened(str(ref), lm, text)
    if not found:
        raise UserError("There is no SAE to look at.", hint="Name a run folder or an SAE.")
    _name_apart(found)
    return found


def _opened(ref: str, lm: str | None, text: str | None) -> list[OpenedSae]:
    place = local(ref.removeprefix("path:"))
    if place.is_dir():
        run = RunFolder(place.resolve())
        if run.study.exists():
            return _of_run(run)
        run = RunFolder(place.resolve().parent.parent)
        if place.resolve().parent == run.saes and run.study.exists() and text is None:
            return [one for one in _of_run(run) if one.name == place.name] or [_alone(ref, lm, text)]
    return [_alone(ref, lm, text)]


def _of_run(run: RunFolder) -> list[OpenedSae]:
    run.check_readable()
    study = StudyConfig.from_yaml(run.study)
    try:
        specs = standing(study, run)
    except ArtefactError as error:  # a run that has not adopted its SAEs yet
        raise UserError(f"{run.root} has no SAEs yet: {error}", hint=f"saelab run {quote(str(run.study))}") from error
    return [
        OpenedSae(s.name, str(run.sae(s.name)), s.site, s.model.reference, s.d_sae, s.architecture, run=run, spec=s)
        for s in specs
        if run.sae(s.name).exists() or (s.adopted is not None and s.adopted.keep == "reference")
    ]


def _alone(ref: str, lm: str | None, text: str | None) -> OpenedSae:
    found = load(ref)
    if not isinstance(found, Sae):
        raise UserError(f"{ref} is no SAE, and its latents have no codes of one site.", hint="saelab inspect shows it.")
    cfg = found.cfg
    if cfg.site is None:
        raise UserError(f"{ref} does not say at which site it was trained.", hint="saelab convert writes it down.")
    name = ref.rstrip("/").rpartition("/")[2] or ref
    text = text or trained_on(found)
    return OpenedSae(name, ref, cfg.site, lm or cfg.lm, cfg.d_sae, cfg.architecture, text=text, loaded=found)


def _name_apart(saes: Sequence[OpenedSae]) -> None:
    """Give every SAE a name of its own: of two runs, the run's before it."""
    names = [one.name for one in saes]
    for one in saes:
        if names.count(one.name) > 1 and one.run is not None:
            one.name = f"{one.run.root.name}:{one.name}"
    seen: dict[str, int] = {}
    for one in saes:
        seen[one.name] = seen.get(one.name, 0) + 1
        if seen[one.name] > 1:
            one.name = f"{one.name}~{seen[one.name]}"
