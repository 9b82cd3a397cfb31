"""Texts kept step by step in a folder, so that what was interrupted goes on and another request starts anew."""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl
import torch

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.instrument.asked import ASKED, READ
from saelab.instrument.bench import Keep
from saelab.instrument.classes import LabelledTexts
from saelab.instrument.texts import TABLE
from saelab.lm.model import LanguageModel
from saelab.saes.transcoder import AnySae
from saelab.store.folders import StepsFolder
from saelab.store.resumable import Resumable
from saelab.store.tables import write_table


def digest_of_sae(sae: AnySae | None) -> str:
    """A name for an SAE by its weights."""
    if sae is None:
        return "none"
    bare = {name: w.detach().cpu().contiguous() for name, w in sae.weights().items()}
    sums = {name: hashlib.sha256(w.view(torch.uint8).numpy().tobytes()).hexdigest() for name, w in bare.items()}
    return digest_of(sums)[:16]


def digest_of_classes(classes: Sequence[LabelledTexts] | str) -> str:
    """A name for known classes by their texts."""
    return digest_of(classes if isinstance(classes, str) else [asdict(c) for c in classes])


def of_lm(lm: LanguageModel) -> dict[str, str]:
    """What of a language model texts depend on."""
    return {"reference": lm.reference, "dtype": str(lm.dtype)}


def opened(kept: StepsFolder, manifest: dict[str, Any]) -> Keep:
    """Take up the steps that a former call with the same request left whole, or start anew; keeps the new ones."""
    held = Resumable(kept.manifest, manifest)
    if held.fresh:
        for path in kept.root.glob("*"):  # text and activations too: they are of the former request
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        held.begin()

    def keep(name: str, write: Any) -> pl.DataFrame:
        step = kept.step(name)
        if not held.whole(step.path):
            table = write()
            held.write(step.path, lambda path: write_table(path, table))
        return step.read(list(READ if name.endswith(ASKED) else TABLE))

    return keep


def step_of(kept: StepsFolder, name: str) -> str:
    """The step that holds a set's texts, beside those of its dev. Raises `ArtefactError` where there is none."""
    own = re.compile(rf"{re.escape(name)}(\.[\d.e+-]+)?")  # the dose, where all its features have one
    found = [path.stem for path in sorted(kept.texts.glob("*")) if own.fullmatch(path.stem)]
    if len(found) != 1:
        raise ArtefactError(f"{kept.texts} holds no texts of {name}.")
    return found[0]


def states_asked(kept: StepsFolder) -> dict[str, int]:
    """How many answers of a reader that was asked were of which state, over all steps; empty for another reader."""
    found: Counter[str] = Counter()
    for name in sorted(path.stem for path in kept.texts.glob("*") if path.stem.endswith(ASKED)):
        found.update(kept.step(name).read(list(READ))["state"].explode().to_list())
    return dict(sorted(found.items()))
