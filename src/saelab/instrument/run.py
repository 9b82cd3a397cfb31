"""The instrument's stage: from a language model and a site to a gate on disk, going on where it was interrupted.

The only place of this package with files (`store.layout.InstrumentFolder`). Another request in the same folder starts
anew; the texts of a finished step are never written again, and gates of several SAEs in one folder share the rest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.core.errors import FetchError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.instrument.asked import reading
from saelab.instrument.bench import Bench, equipped
from saelab.instrument.classes import LabelledTexts, class_features, embedded_classes
from saelab.instrument.config import GateConfig
from saelab.instrument.features import SiteText, features_of
from saelab.instrument.gate import Gate, Sets, gate, not_gated
from saelab.instrument.kept import digest_of_classes, digest_of_sae, of_lm, opened, states_asked
from saelab.instrument.random_dictionary import untrained_features
from saelab.interp.fidelity.control import control_k
from saelab.judges.embedding import Embedder
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.store.folders import MANIFEST, InstrumentFolder
from saelab.store.layout import RunFolder
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import PackedText, pack_for

# What no text of the classes depends on: other features in the same folder share these texts.
OF_FEATURES = ("n_features", "feature_copies", "width", "l0")


def run(
    config: GateConfig,
    lm: LanguageModel,
    site: str,
    folder: Path,
    *,
    classes: Sequence[LabelledTexts] | None = None,
    sae: Sae | None = None,
    corpus: CorpusConfig | None = None,
    embed: Embedder | None = None,
    progress: Progress = SILENT,
) -> Gate:
    """Run the gate at a site and write it into `folder`.

    classes: the positive control; by default six sets of the embedded corpus, and "not gated" where these cannot be
    had. sae: features to hold against a random dictionary of its width and L0. embed: what `described` reads by, by
    default what the config names. Raises `UserError` for an SAE of another width, and `FetchError` where the reader or
    the text cannot be had.
    """
    place, kept = str(lm.site(site)), InstrumentFolder(folder)
    if sae is not None and sae.W_dec.shape[1] != lm.width(place):
        raise UserError(f"The SAE reads width {sae.W_dec.shape[1]}; {lm.name} is {lm.width(place)} wide at {place}.")
    corpus = corpus or CorpusConfig()
    try:
        known = embedded_classes(taken=config.class_texts) if classes is None else classes
    except FetchError as error:
        found = not_gated(f"no classes could be had. {error.message}")
        kept.gate.write(found.record())
        return found
    with reading(config, RunFolder(folder).replies, embed) as reader:
        return _gated(config, lm, kept, known, corpus, place=place, sae=sae, embed=reader, progress=progress)


def _gated(
    config: GateConfig,
    lm: LanguageModel,
    kept: InstrumentFolder,
    known: Sequence[LabelledTexts],
    corpus: CorpusConfig,
    *,
    place: str,
    sae: Sae | None,
    embed: Embedder,
    progress: Progress,
) -> Gate:
    keep = opened(kept, _manifest(config, lm, place, known, corpus) | {"embedder": embed.name})
    packed = _packed(config, lm, corpus, kept.tokens, progress)
    shards = harvest(lm, packed, [place], kept.activations, config=HarvestConfig(), progress=progress)[place]
    text = SiteText.of(lm, packed, shards)
    with progress.task("reading features", total=3, unit="sets") as task:
        named = class_features(lm, place, known, text.background, embed)
        task.advance()
        size = {"count": config.n_features, "seed": config.seed, "least": 3}
        l0 = config.l0 if sae is None else control_k(_l0(sae, text))
        width = config.width if sae is None else len(sae.W_dec)
        random = untrained_features(text, embed, width=width, l0=l0, **size)
        task.advance()
        own = None if sae is None else features_of(sae.encode, sae.W_dec.detach(), text, embed, **size)
    desk, probe = equipped(config, lm, text, embed)
    with progress.task("instrument", unit="steps") as task:

        def counted(name: str, write: Callable[[], pl.DataFrame]) -> pl.DataFrame:
            task.advance()
            return keep(name, write)

        many = f"{config.n_features}x{config.feature_copies}"
        keys = (f"random_dictionary.{width}.{l0}.{many}", f"sae.{digest_of_sae(sae)}.{many}")
        found = gate(Bench(config, desk, probe, counted, progress), Sets(named, random, own, *keys))
    kept.features.write(found.features)
    kept.gate.write(found.record() | {"reader": embed.name, "answers": states_asked(kept)})
    return found


def _l0(sae: Sae, text: SiteText) -> float:
    """Mean number of active features on an even part of the text."""
    with torch.inference_mode():
        return float((sae.encode(text.rows[:: max(1, len(text.rows) // 4096)]) > 0).sum(1).float().mean())


def _manifest(
    config: GateConfig,
    lm: LanguageModel,
    site: str,
    classes: Sequence[LabelledTexts],
    corpus: CorpusConfig,
) -> dict[str, Any]:
    return {
        "config": {name: value for name, value in config.settings.items() if name not in OF_FEATURES},
        "corpus": corpus.model_dump(mode="json"),
        "lm": of_lm(lm),
        "site": site,
        "classes": digest_of_classes(classes),
    }


def _packed(
    config: GateConfig, lm: LanguageModel, corpus: CorpusConfig, folder: Path, progress: Progress
) -> PackedText:
    if not (folder / MANIFEST).exists():
        documents = iter_documents(corpus)
        made = pack_for(lm, documents, context=config.context, n_contexts=config.contexts, progress=progress)
        made.save(folder)
    return PackedText.load(folder)
