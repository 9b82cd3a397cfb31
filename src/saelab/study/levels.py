"""Levels of one training (`joint_levels` of a grid): which SAEs are trained, and the others, read from their weights.

An SAE that was trained for several levels is written once per level. Opens and writes SAEs; must never train.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from saelab.core.errors import ArtefactError
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import TrainConfig
from saelab.saes.formats import load_sae, save_native
from saelab.study.spec import SaeSpec


def trained(saes: Sequence[SaeSpec]) -> list[SaeSpec]:
    """Those that have a training of their own: of several levels of one training the largest."""
    return [s for s in saes if s.level == max(s.ks, default=s.level)]


def by_training(saes: Sequence[SaeSpec]) -> list[list[SaeSpec]]:
    """The SAEs of each training together."""
    found: dict[str, list[SaeSpec]] = {}
    for sae in saes:
        found.setdefault(_training(sae), []).append(sae)
    return list(found.values())


def write_others(saes: Sequence[SaeSpec], configs: Mapping[str, TrainConfig], folder: Path) -> list[Path]:
    """Write to `<folder>/<name>` the SAEs that have no training of their own; returns the files.

    Their files say the config of their level, with which training is the same, and what they were read from.
    """
    sources, written = {_training(s): s for s in trained(saes)}, list[Path]()
    for spec in saes:
        source = sources[_training(spec)]
        if source is spec:
            continue
        whole = load_sae(folder / source.name)
        if not isinstance(whole, TopKSae):
            raise ArtefactError(f"{folder / source.name} holds no SAE that can be read at several levels.")
        sae = whole.keeping(spec.known_level)
        said = {name: value for name, value in sae.cfg.metadata.items() if name != "l0"}  # that of the largest level
        said |= {"training": configs[spec.name].model_dump(mode="json"), "read_from": source.name}
        sae.cfg = sae.cfg.model_copy(update={"metadata": said})
        save_native(sae, folder / spec.name)
        written += sorted((folder / spec.name).iterdir())
    return written


def _training(sae: SaeSpec) -> str:
    """Names the training of an SAE: all that is said of it but the level that it is read at."""
    apart = {"name", "level"} if sae.ks else set[str]()
    return sae.model_dump_json(exclude=apart)
