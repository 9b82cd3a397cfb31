"""Opens the SAEs that a study adopts, before anything is planned: site, level, width, language model, and their sum.

A study whose SAEs are opened is complete: its plan needs no file of theirs. What a file says is kept in its entry as
`found`, which goes into the run folder with the study. Weights are read, never changed; what they are worth is measured
by the stage (adopt.py). All that cannot be opened is said at once, each with its key.
"""

from saelab.core.config import Fault
from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.core.names import path_part
from saelab.core.sites import find_site
from saelab.saes.base import Sae
from saelab.saes.formats import load_sae
from saelab.saes.given import HELD, sum_of
from saelab.store.files import is_there
from saelab.store.references import cached, parse_reference
from saelab.study.checks import accepted, refusal
from saelab.study.grids import AdoptedConfig, FoundConfig, GridConfig
from saelab.study.spec import SaeSpec, StudyConfig, is_open
from saelab.study.starts import starts_of

Place = tuple[int, int]  # of an SAE in a study: which model, which of its `saes`


def opened(study: StudyConfig) -> StudyConfig:
    """The study with every SAE opened, those that its training begins with too; what is opened already is left.

    Raises `UserError` with all that cannot be opened or does not fit.
    """
    if is_open(study):
        return study
    found, faults = _look(study)
    starts, misfits = starts_of(study)
    faults += misfits
    if faults:
        raise refusal(f"The study {study.name} cannot take the SAEs that it names", faults)
    data = study.model_dump(mode="json")
    for (i, j), one in found.items():
        data["models"][i]["saes"][j]["found"] = one.model_dump(mode="json")
    for (i, j), total in starts.items():
        data["models"][i]["grids"][j]["start_sha256"] = total
    return accepted(data, origin=f"The study {study.name}")


def opened_here(study: StudyConfig) -> tuple[StudyConfig, list[str]]:
    """What of a study can be planned without any download, and the SAEs that are left out of it for that."""
    away = {(i, j) for i, m in enumerate(study.models) for j, one in enumerate(m.saes) if not _is_here(one)}
    models = [
        model.model_copy(
            update={
                "saes": tuple(one for j, one in enumerate(model.saes) if (i, j) not in away),
                "grids": tuple(g if _starts_here(g) else g.model_copy(update={"start": None}) for g in model.grids),
            }
        )
        for i, model in enumerate(study.models)
    ]
    kept = tuple(m.model_copy(update={"paths": ()}) if away else m for m in models if m.grids or m.saes)
    names = [study.models[i].saes[j].ref for i, j in sorted(away)]
    if not kept:
        raise UserError(f"None of the SAEs of {study.name} is on this machine yet.", hint="saelab run fetches them.")
    return opened(study.model_copy(update={"models": kept})), names


def opened_one(one: AdoptedConfig) -> AdoptedConfig:
    """An entry with what its files say. Raises the errors of `load_sae`."""
    return one if one.found is not None else one.model_copy(update={"found": _found(one)})


def open_sae(one: AdoptedConfig) -> Sae:
    """The SAE of an entry as it is declared; NaN and infinite weights are let through (`broken` names them).

    Raises the errors of `load_sae`.
    """
    return load_sae(one.ref, checked=False, **one.declared)


def placed(sae: Sae, spec: SaeSpec) -> Sae:
    """The SAE with the site at which it is scored, and its language model where its files name none."""
    sae.cfg = sae.cfg.model_copy(update={"site": spec.site, "lm": sae.cfg.lm or spec.model.reference})
    return sae


def reopened(spec: SaeSpec) -> Sae:
    """The SAE of a study that was not copied into its run, from where it lies.

    Raises `ArtefactError` where it is not what the study was begun with, and the errors of `load_sae`.
    """
    one = spec.adopted
    if one is None:
        raise ArtefactError(f"{spec.name} is trained by its study, and lies nowhere else.")
    sae = open_sae(one)
    if one.found is not None and sum_of(sae) != one.found.sha256:
        raise ArtefactError(
            f"The weights of {spec.name} at {one.ref} are not those that this study was begun with.",
            hint="Run the study file again: it looks at them anew.",
        )
    return placed(sae, spec)


def _look(study: StudyConfig) -> tuple[dict[Place, FoundConfig], list[Fault]]:
    found: dict[Place, FoundConfig] = {}
    faults: list[Fault] = []
    for i, model in enumerate(study.models):
        for j, one in enumerate(model.saes):
            where = ("models", i, "saes", j)
            if one.found is not None:
                continue
            try:
                path_part(one.called)
            except ValueError as error:
                faults.append(Fault((*where, "ref"), f"gives no name for tables: {error}. Say one with `name`."))
            try:
                found[i, j] = _found(one)
            except SaelabError as error:
                faults.append(Fault((*where, "ref"), str(error)))
                continue
            if one.site is None and found[i, j].site is None:
                what = f"its files do not say where it reads ({found[i, j].d_in} wide). Say it, such as resid_post.12"
                faults.append(Fault((*where, "site"), what))
    return found, faults


def _found(one: AdoptedConfig) -> FoundConfig:
    sae = open_sae(one)
    cfg, site = sae.cfg, find_site(sae.cfg.site or "")
    return FoundConfig(
        architecture=cfg.architecture,
        site=str(site) if site else None,
        level=_level(sae),
        lm=cfg.lm,
        text=_text(sae),
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        sha256=sum_of(sae),
    )


def _level(sae: Sae) -> int | None:
    """The L0 that it was trained for, or that its files give; None where they say neither."""
    data = sae.cfg.metadata
    asked = data.get("training")
    asked = asked if isinstance(asked, dict) else {}
    for said in (asked.get("k"), asked.get("target_l0"), sae.cfg.k, data.get("l0")):
        if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
            return min(max(1, round(said)), sae.cfg.d_sae)
    return None


def _text(sae: Sae) -> str | None:
    said = sae.cfg.metadata.get("dataset_path")
    return said if isinstance(said, str) and said.strip() else None


def _is_here(one: AdoptedConfig) -> bool:
    return one.found is not None or _lies_here(one.ref)


def _starts_here(grid: GridConfig) -> bool:
    return grid.start is None or grid.start_sha256 is not None or _lies_here(grid.start)


def _lies_here(reference: str) -> bool:
    """Whether it can be opened without a download. Of a hub it is not known."""
    if is_there(reference) or reference.startswith(HELD):
        return True
    return reference.startswith(("path:", "pypi:")) and cached(parse_reference(reference))
