"""A language model as the rest of saelab sees it: tokens, activations at sites, edits, generation, likelihoods.

    lm = LanguageModel.load("smollm2-135m")
    acts = lm.capture(["The cat sat."], ["resid_post.15"])["resid_post.15"]      # Tensor[N, D]
    text = lm.generate(["The capital of France is"], edits=[Add("resid_post.15", direction, 8.0)])

Weights are frozen. Nothing here knows of SAEs, nor trains anything.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saelab.core.errors import UserError
from saelab.core.hardware import device_of
from saelab.core.progress import SILENT, Progress
from saelab.core.sites import Site, in_stream
from saelab.lm import capture, generate, passes, score
from saelab.lm.blocks import Decoder
from saelab.lm.edit import Edit
from saelab.lm.generate import Sampling, Watch
from saelab.lm.loading import dtype_of, open_model
from saelab.lm.passes import Prefix
from saelab.lm.proofs import copied, proved
from saelab.lm.shuffle import shuffle_weights
from saelab.lm.sources import SHUFFLED, locate
from saelab.lm.tokens import Tokens

GREEDY = Sampling()
TextsOrIds = Sequence[str] | Sequence[Sequence[int]]


class LanguageModel:
    """A causal language model with its tokenizer.

    reference: where the weights came from; name: a short name; family: its block layout; n_layers, d_model, vocab_size;
    tokenizer: transformers' own; bos_id; special_ids: ids that stand for no text; dtype, device.
    """

    def __init__(self, model: nn.Module | Decoder, tokenizer: Any, *, reference: str, name: str, **asked: Any):
        """asked: how the model is asked, the settings of `Tokens` (plain, system).

        A transformers model is proved first (`parity.py`); a decoder was. Raises `UserError` where the proof fails.
        """
        self.reference = reference
        self.name = name
        self.tokenizer = tokenizer
        self._decoder = model if isinstance(model, Decoder) else proved(model)
        self._tokens = Tokens(tokenizer, **asked)
        self.family: str = self._decoder.name
        self.n_layers: int = len(self._decoder.blocks)
        self.d_model: int = self._decoder.config.hidden_size
        self.vocab_size: int = self._decoder.vocab_size
        self.bos_id: int | None = self._tokens.bos_id
        self.special_ids: frozenset[int] = self._tokens.special_ids

    def __repr__(self) -> str:
        size = f"{self.n_layers} blocks of width {self.d_model}, {self.vocab_size:,} tokens"
        return f"<LanguageModel {self.name}: {self.family}, {size}, {self.dtype} on {self.device}>"

    @classmethod
    def load(
        cls,
        ref: str,
        *,
        dtype: str = "float32",
        device: str = "auto",
        plain: str | None = None,
        system: str | None = None,
    ) -> "LanguageModel":
        """Load by short name (`smollm2-135m`), `hf:org/name@revision`, `path:folder-or-gguf` or `pypi:...`.

        plain: how the model is asked instead of by its own chat template, such as "Q: {instruction} A:".
        system: what every chat begins with. device: auto (CUDA where there is a card, else the CPU), cpu, cuda, cuda:1
        or mps. Raises `UserError` (unknown name, dtype, device or architecture, a template without a place for the
        instruction), `FetchError` and `ArtefactError`.
        """
        place = str(device_of(device))
        dtype_of(dtype, place)
        located = locate(ref)
        model, tokenizer = open_model(located, dtype=dtype, device=place)
        decoder = proved(model, located)
        return cls(decoder, tokenizer, reference=located.reference, name=located.name, plain=plain, system=system)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of what `run_to` returns."""
        return self._decoder.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._decoder.device

    @property
    def model(self) -> Any:
        """The transformers model itself."""
        return self._decoder.model

    def to_dtype(self, dtype: str) -> "LanguageModel":
        """A second copy with weights of another dtype; buffers (rotary frequencies) keep their precision."""
        model = copy.deepcopy(self._decoder.model)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype_of(dtype))
        decoder = copied(self._decoder, model)
        return LanguageModel(decoder, self.tokenizer, reference=self.reference, name=self.name, **self._tokens.asked)

    def shuffled(self, seed: int = 0) -> "LanguageModel":
        """A control of the same statistics that has learnt nothing: a copy in which the entries of every weight tensor
        have changed places (`shuffle.py`).
        """
        model = copy.deepcopy(self._decoder.model)
        shuffle_weights(model, seed)
        decoder = copied(self._decoder, model)
        named = {"reference": self.reference + SHUFFLED, "name": self.name + SHUFFLED}
        asked: dict[str, Any] = named | self._tokens.asked
        return LanguageModel(decoder, self.tokenizer, **asked)

    def tokenize(self, texts: Sequence[str], *, bos: bool = True) -> list[list[int]]:
        """Token ids of each text, with one BOS first where `bos` and the model has one."""
        return self._tokens.tokenize(texts, bos=bos)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self._tokens.decode(ids)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as it reads in text, with its leading space."""
        return self._tokens.token_strings(ids)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each token as what it is (`core.bytetext`): parts of characters differ, and joined they are the text."""
        return self._tokens.token_texts(ids)

    def chat(self, instruction: str) -> list[int]:
        """The instruction in the chat template (with the template's own BOS), up to where the answer begins."""
        return self._tokens.chat(instruction)

    def site(self, name: str | Site) -> Site:
        """Parse a site and check that this model has it; a `UserError` says what it has instead."""
        return passes.check_site(name, self._decoder)

    def width(self, name: str | Site) -> int:
        """How wide the activations of a site are: `d_model`, but for the heads' outputs (z)."""
        site = self.site(name)
        return self._decoder.width(site.kind, site.layer)

    def capture(
        self, texts: TextsOrIds, sites: Sequence[str | Site], *, batch_size: int = 32
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """Activations `[N, D]` (float32) at each site for the N tokens that are not special, keyed by `str(site)`.

        Order: text by text, position by position. Texts get a BOS; token ids are taken as they are.
        """
        places = [self.site(s) for s in sites]
        rows = self._ids(texts)
        return capture.capture(self._decoder, rows, places, self.special_ids, batch_size=batch_size)

    def run_to(
        self,
        tokens: Int[Tensor, "B T"],
        sites: Sequence[str | Site],
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        edits: Sequence[Edit] = (),
    ) -> dict[str, Float[Tensor, "B T D"]]:
        """Activations at each site, keyed by `str(site)`; blocks above the last site do not run.

        mask: True at real tokens, for left padding. Equal to transformers' `hidden_states[L+1]` for `resid_post.L`,
        except at the last block, where transformers applies the final norm first. With edits: after them.
        """
        places = [self.site(s) for s in sites]
        stop = passes.stop_after(places)
        _, found = passes.run(self._decoder, tokens, sites=places, mask=mask, edits=edits, stop=stop)
        return {str(site): found[site] for site in places}

    def logits(
        self, tokens: Int[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None, edits: Sequence[Edit] = ()
    ) -> Float[Tensor, "B T V"]:
        """Next-token logits at every position (float32), under edits; all positions count as prompt."""
        return self.unembed(passes.run(self._decoder, tokens, mask=mask, edits=edits)[0])

    def run_from(
        self,
        hidden: Float[Tensor, "B T D"],
        site: str | Site,
        *,
        stream: Float[Tensor, "b T E"] | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        last: bool = False,
    ) -> Float[Tensor, "B _ V"]:
        """Logits when a site has these activations at all positions; blocks below it do not run.

        stream: of a site inside a block, the stream before that block (`resid_pre`), one for all rows or one per row.
        last: the head runs at the last position only, `[B, 1, V]`: the head is a third of a small model's work.
        """
        return passes.run_from(self._decoder, hidden, self.site(site), stream=stream, mask=mask, last=last)

    def prefill(self, tokens: Sequence[int], site: str | Site) -> Prefix:
        """Run one prompt, keeping the site's activation at its last token and the caches above it."""
        return passes.prefill(self._decoder, tokens, self.site(site))

    def continue_from(self, prefix: Prefix, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Next-token logits (float32) when each row replaces the site's activation at the prefix's last token."""
        return passes.continue_from(self._decoder, prefix, hidden)

    def unembed(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Final norm and head (logit lens): logits in float32."""
        return self._decoder.unembed(hidden.to(self.device, self.dtype))

    def lens(self, vectors: Float[Tensor, "... D"], site: str | Site | None = None) -> Float[Tensor, "... V"]:
        """Logits (float32) of directions at a site as the head reads them, added to the stream (logit lens).

        Heads' outputs (z) go through the projection of their block. A `UserError` for mlp_in, whose directions are
        none of the stream.
        """
        place = None if site is None else self.site(site)
        if place is not None and not in_stream(place):
            raise UserError(f"A direction at {place} is none of the stream, so the head cannot read it.")
        vectors = vectors.to(self.device, self.dtype)
        return self.unembed(self._decoder.mixed(vectors, place.layer) if place and place.kind == "z" else vectors)

    def generate(
        self,
        prompts: TextsOrIds,
        sampling: Sampling = GREEDY,
        *,
        edits: Sequence[Edit] = (),
        batch_size: int = 64,
        progress: Progress = SILENT,
    ) -> list[str]:
        """`generate_ids`, decoded: the new text of each prompt, special tokens left out."""
        ids = self.generate_ids(prompts, sampling, edits=edits, batch_size=batch_size, progress=progress)
        return [self.decode(row) for row in ids]

    def generate_ids(
        self,
        prompts: TextsOrIds,
        sampling: Sampling = GREEDY,
        *,
        edits: Sequence[Edit] = (),
        batch_size: int = 64,
        progress: Progress = SILENT,
        watch: Watch | None = None,
    ) -> list[list[int]]:
        """New token ids of each prompt, in order, without the token that ended it.

        Texts get a BOS; token ids are taken as they are (see `chat`). Row i of a per-row edit belongs to prompt i.
        sampling: how many tokens, at which temperature, from which seeds; greedy and 64 by default.
        watch: called after each token with what all prompts have so far; what it raises ends the generation.
        """
        return generate.generate_ids(
            self._decoder,
            self._ids(prompts),
            sampling,
            stop_ids=self.stop_ids,
            edits=edits,
            batch_size=batch_size,
            progress=progress,
            watch=watch,
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a generation."""
        ids = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        known = ids if isinstance(ids, list) else [ids]
        return frozenset(i for i in [*known, self.tokenizer.eos_token_id] if i is not None)

    def nll(
        self, prefixes: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "_"]]:
        """Token NLLs in nats of each continuation given its prefix, unedited: one tensor per row."""
        return score.nll(self._decoder, prefixes, continuations)

    def read(
        self, beginning: Sequence[int], texts: Sequence[Sequence[int]], site: str | Site
    ) -> tuple[list[Float[Tensor, "_"]], list[Float[Tensor, "_"] | None]]:
        """Token NLLs of each text after `beginning`, and its mean activation at the site, from one unedited pass.

        The mean is over the tokens that are not special; None where a text has none.
        """
        return score.read(self._decoder, beginning, texts, self.site(site), self.special_ids)

    def _ids(self, texts: TextsOrIds) -> Sequence[Sequence[int]]:
        if texts and isinstance(texts[0], str):
            return self.tokenize(cast("Sequence[str]", texts))
        return cast("Sequence[Sequence[int]]", texts)
