"""Opens the SAEs whose weights a study's training begins with, before anything is planned, and keeps their sum.

With the sum in the study its plan needs none of their files, and training refuses other weights than those.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import product

from saelab.core.config import Fault
from saelab.core.errors import ArtefactError, SaelabError
from saelab.core.sites import parse_site
from saelab.lm.facts import facts_of
from saelab.saes.base import Sae
from saelab.saes.catalogue import training_config
from saelab.saes.formats import load_sae
from saelab.saes.given import sum_of
from saelab.study.grids import GridConfig
from saelab.study.spec import ModelConfig, SaeSpec, StudyConfig
from saelab.training.start import start_misfit

Place = tuple[int, int]  # of a grid in a study: which model, which of its grids


def starts_of(study: StudyConfig) -> tuple[dict[Place, str], list[Fault]]:
    """The sums of the SAEs that grids begin with, where they are not kept yet, and what keeps them from that."""
    found: dict[Place, str] = {}
    faults: list[Fault] = []
    for i, model in enumerate(study.models):
        for j, grid in enumerate(model.grids):
            if grid.start is None or grid.start_sha256 is not None:
                continue
            where = ("models", i, "grids", j, "start")
            try:
                sae = load_sae(grid.start)
            except SaelabError as error:
                faults.append(Fault(where, str(error)))
                continue
            found[i, j] = sum_of(sae)
            faults += [Fault(where, what) for what in dict.fromkeys(_misfits(model, grid, sae))]
    return found, faults


def start_of(spec: SaeSpec) -> Sae | None:
    """The SAE that the training of this one begins with. Raises `ArtefactError` where its weights are others by now."""
    if spec.start is None:
        return None
    sae = load_sae(spec.start)
    if spec.start_sha256 is not None and sum_of(sae) != spec.start_sha256:
        raise ArtefactError(
            f"The weights at {spec.start} are not those with which {spec.name} was to begin.",
            hint="Run the study file again: it looks at them anew.",
        )
    return sae


def _misfits(model: ModelConfig, grid: GridConfig, sae: Sae) -> Iterator[str]:
    facts = None
    with suppress(SaelabError):  # what is wrong with the language model is said of it
        facts = facts_of(model.lm, fetch=False)
    read = {sae.cfg.d_in} if facts is None else {facts.width(parse_site(site)) for site in grid.sites}
    for architecture in grid.architectures:
        for d_sae, d_in, freeze in product(grid.widths, sorted(read), grid.freeze):
            own = grid.options | {"freeze": freeze}
            cfg = training_config(architecture, level=grid.levels[0], d_in=d_in, d_sae=d_sae, **own)
            if (why := start_misfit(sae, cfg)) is not None:
                yield why
