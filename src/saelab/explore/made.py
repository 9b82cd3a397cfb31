"""Makes the material of an SAE: from what its run has read, or from a text that is read here with the language model.

A run that interprets makes the same by itself. Nothing is made twice: what is there and the same is left.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.shards import ActivationShards
from saelab.activations.site import read_site
from saelab.core.errors import ArtefactError
from saelab.core.progress import SILENT, Progress
from saelab.explore.material import SaeMaterial
from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.features.describe import DescribingText, describe
from saelab.interp.features.material import LENS, MaterialSource, write_material
from saelab.interp.features.profile import fitting_site, lens_scores
from saelab.interp.features.windows import DESCRIBE, Passages, WindowFinder
from saelab.interp.run import InterpConfig, harvested_rows
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.store.folders import MaterialFolder
from saelab.store.layout import RunFolder
from saelab.study.spec import SaeSpec, StudyConfig
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import PackedText, pack_for

DENSE = 1 << 24  # entries of a block of codes before they are sparse
MOST = 4e7  # codes above zero that are kept in memory
READ, LENGTH, CHARACTERS = 256, 128, 5  # contexts read of a text, their tokens, characters of a token, about
TRAIN = "train"  # the part of a run's text that is harvested


def kept_there(folder: MaterialFolder) -> bool:
    """Whether a whole material lies in a folder."""
    try:
        SaeMaterial(folder.root)
    except ArtefactError:
        return False
    return True


def made_by_run(
    lm: LanguageModel,
    sae: Sae,
    run: RunFolder,
    spec: SaeSpec,
    folder: MaterialFolder,
    *,
    progress: Progress = SILENT,
) -> None:
    """Make it from the text of the SAE's run; activations are those that were harvested, where they are still there."""
    config, key = StudyConfig.from_yaml(run.study).interp, spec.model.key
    packed = PackedText.load(run.tokens(key) / TRAIN)
    place, features = run.activations(key) / spec.site, run.interp(spec.name).features
    told = None
    if features.exists:  # one description of a feature, not two
        told = dict(features.read().select("feature", "description").drop_nulls().iter_rows())
    if place.exists():
        rows, read = harvested_rows(ActivationShards(place), config.window_rows, packed.context)
        part = packed.first(int(read[-1]) // packed.context + 1)
        keep_material(lm, sae, (rows, read), part, folder, config=config, told=told, progress=progress)
    else:
        part = packed.first(-(-config.window_rows // packed.context))
        make_material(lm, sae, part, folder.root, config=config, told=told, progress=progress)


def made_here(
    lm: LanguageModel, sae: Sae, text: str | None, folder: MaterialFolder, *, progress: Progress = SILENT
) -> None:
    """Make it from a text (path: or hf: reference; None: the embedded corpus)."""
    make_material(lm, sae, text_for(lm, text, progress=progress), folder.root, progress=progress)


def text_for(lm: LanguageModel, text: str | None, *, read: int = READ, progress: Progress = SILENT) -> PackedText:
    """About so many contexts of a text (path: or hf: reference; None: the embedded corpus)."""
    corpus = CorpusConfig() if text is None else CorpusConfig(source=text)
    documents = _some(iter_documents(corpus), read * LENGTH * CHARACTERS)
    return pack_for(lm, documents, context=LENGTH, progress=progress)


def _some(documents: Iterable[Any], characters: int) -> Iterator[Any]:
    """The first documents, until they hold so many characters."""
    held = 0
    for document in documents:
        yield document
        held += len(document.text)
        if held >= characters:
            return


def make_material(
    lm: LanguageModel,
    sae: Sae,
    packed: PackedText,
    folder: Path,
    *,
    config: InterpConfig | None = None,
    told: Mapping[int, str] | None = None,
    progress: Progress = SILENT,
) -> SaeMaterial:
    """Read a text with an SAE and keep what its features are in `folder`.

    packed: text as the model's tokens. told: descriptions that are known. Raises `UserError` where SAE and model do
    not fit.
    """
    site = fitting_site(lm, sae, ())
    with progress.task(f"reading {site}", total=1, unit="passes") as task:
        clean = read_site(lm, packed, site)
        task.advance()
    read = clean.kept.reshape(-1).nonzero()[:, 0].numpy()
    return keep_material(
        lm, sae, (clean.rows, read), packed, MaterialFolder(folder), config=config, told=told, progress=progress
    )


def keep_material(
    lm: LanguageModel,
    sae: Sae,
    rows: tuple[Float[Tensor, "N D"], Int[np.ndarray, " N"]],
    packed: PackedText,
    folder: MaterialFolder,
    *,
    config: InterpConfig | None = None,
    told: Mapping[int, str] | None = None,
    progress: Progress = SILENT,
) -> SaeMaterial:
    """Keep what features are on activations that were read. rows: activations at the SAE's site, and their places."""
    config = config or InterpConfig()
    codes = bounded_codes(sae, *rows)
    read = rows[1][: codes.n_rows]
    passages = Passages(packed.tokens.numpy(), packed.document_ids.numpy())
    finder, strings = WindowFinder.over(passages, config.windows), lm.token_texts(range(lm.vocab_size))
    thresholds = finder.thresholds(codes)
    seen = np.zeros(passages.tokens.size, bool)
    seen[read] = True
    text = DescribingText.over(passages, seen & (finder.sides == DESCRIBE), strings)

    def described(features: Sequence[int]) -> dict[int, str]:
        if told is not None:
            return {f: told[f] for f in features if f in told}
        largest = thresholds[list(features)] / config.windows.active_fraction
        found = describe(codes.only(features), text, largest, config.describe)
        return {features[k]: one.text for k, one in found.items()}

    source = MaterialSource(
        codes,
        passages,
        read,
        strings,
        decoder=sae.W_dec,
        thresholds=thresholds,
        described=described,
        lens=lambda features: lens_scores(lm, sae.W_dec, features, LENS, sae.cfg.site),
    )
    write_material(source, folder, progress=progress)
    return SaeMaterial(folder.root)


def bounded_codes(sae: Sae, rows: Float[Tensor, "N D"], read: Int[np.ndarray, " N"]) -> Codes:
    """The codes of as many rows as keep few enough of them: of a dense dictionary, of fewer."""
    block = max(1, DENSE // sae.cfg.d_sae)
    first = encode_codes(sae.encode, rows[:block], read[:block], block=block)
    if first.n_rows == len(rows):
        return first
    each = max(1.0, len(first.places) / max(1, first.n_rows))
    most = max(1, int(MOST / each))
    return encode_codes(sae.encode, rows[:most], read[:most], block=block)
