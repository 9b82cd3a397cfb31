"""A text as the language model read it at one site, and the model run on from there with other activations.

    kept     positions that are spliced: no special token, no attention sink (norm over SINK_RATIO medians)
    scored   positions whose next token is predicted and counted

One rule for sinks and one cross-entropy under substitution, for fidelity, evaluations and matching alike. Nothing here
knows SAEs: what replaces the activations is any function of rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.hardware import fitting
from saelab.core.sites import Site, parse_site
from saelab.lm.score import following_nll
from saelab.text.pack import PackedText

SINK_RATIO = 10.0
Recode = Callable[[Tensor], Tensor]


@runtime_checkable
class Restartable(Protocol):
    """The part of a language model that is needed: the pass up to sites, and the pass from a site on."""

    def run_to(self, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> Mapping[str, Float[Tensor, "B T D"]]: ...

    def run_from(
        self, hidden: Float[Tensor, "B T D"], site: str, *, stream: Float[Tensor, "b T E"] | None = None
    ) -> Float[Tensor, "B T V"]: ...


@dataclass(frozen=True)
class SitePass:
    """One site's clean pass over a text. kept, scored: see the head of this file.

    stream: of a site inside a block, the stream before that block, with which a pass starts again.
    """

    site: str
    tokens: Int[Tensor, "N T"]
    hidden: Float[Tensor, "N T D"]
    kept: Bool[Tensor, "N T"]
    scored: Bool[Tensor, "N T"]
    batch_size: int = 8
    stream: Float[Tensor, "N T E"] | None = None

    @property
    def rows(self) -> Float[Tensor, "M D"]:
        """The kept activations, flattened."""
        return self.hidden[self.kept]

    def take(self, contexts: slice | Int[Tensor, " K"]) -> "SitePass":
        """Some of its contexts."""
        parts = (x[contexts] for x in (self.tokens, self.hidden, self.kept, self.scored))
        stream = None if self.stream is None else self.stream[contexts]
        return SitePass(self.site, *parts, batch_size=self.batch_size, stream=stream)

    def logits(
        self, lm: Restartable, contexts: slice, hidden: Float[Tensor, "B T D"] | None = None
    ) -> Float[Tensor, "B T V"]:
        """The LM run on from some contexts, with other activations at the site where they are given."""
        hidden = self.hidden[contexts] if hidden is None else hidden
        return resumed(lm, hidden, self.site, None if self.stream is None else self.stream[contexts])

    def spread(self, contexts: int) -> "SitePass":
        """So many of its contexts, evenly spread over them."""
        return self.take(torch.linspace(0, len(self.tokens) - 1, min(contexts, len(self.tokens))).round().long())

    def replaced(self, rows: Float[Tensor, "M D"]) -> "SitePass":
        """The same text with other activations at the kept positions."""
        hidden = self.hidden.clone()
        hidden[self.kept] = rows.to(hidden.dtype)
        return replace(self, hidden=hidden)


def stream_site(site: str) -> str | None:
    """Where the stream is read that a pass from a site inside a block starts with; None of sites of the stream."""
    place = parse_site(site)
    return None if place.of_stream else str(Site("resid_pre", place.layer))


def resumed(
    lm: Restartable, hidden: Float[Tensor, "B T D"], site: str, stream: Float[Tensor, "b T E"] | None
) -> Float[Tensor, "B T V"]:
    """Logits when the site has these activations."""
    return lm.run_from(hidden, site) if stream is None else lm.run_from(hidden, site, stream=stream)


def sink_bound(norms: Float[Tensor, " N"], ratio: float = SINK_RATIO) -> float:
    """The norm above which a position is an attention sink, from the norms of the positions that count."""
    return ratio * float(norms.median())


def read_states(
    lm: Restartable, tokens: Int[Tensor, "N T"], sites: Sequence[str], *, batch_size: int = 8
) -> dict[str, Float[Tensor, "N T D"]]:
    """One pass over the contexts: activations at every site, float32 on the CPU."""

    def read(size: int) -> list[dict[str, Tensor]]:
        passes = (lm.run_to(part.long(), sites) for part in tokens.split(size))
        return [{site: found[site].float().cpu() for site in sites} for found in passes]

    with torch.inference_mode():
        parts = fitting("contexts", batch_size, read)
        return {site: torch.cat([part[site] for part in parts]) for site in sites}


def read_site(lm: Restartable, packed: PackedText, site: str, *, batch_size: int = 8) -> SitePass:
    """Run the LM once up to the site. Predictions across the end of a document are not scored.

    Raises `UserError` where no position is left to count.
    """
    counts = packed.counts
    if not bool(counts.any()):
        raise UserError("The text holds special tokens only; nothing can be scored.", hint="Give some text.")
    before = stream_site(site)
    states = read_states(lm, packed.tokens, [site, *([before] if before else [])], batch_size=batch_size)
    hidden, stream = states[site], states[before] if before else None
    norms = hidden.norm(dim=-1)
    kept = counts & (norms <= sink_bound(norms[counts]))
    same = packed.document_ids[:, 1:] == packed.document_ids[:, :-1]
    scored = torch.zeros_like(kept)
    scored[:, :-1] = kept[:, :-1] & counts[:, 1:] & same
    if not bool(scored.any()):
        raise UserError("No token of the text has a successor in its document; nothing can be scored.")
    return SitePass(site, packed.tokens.long(), hidden, kept, scored, batch_size, stream)


def both(first: SitePass, second: SitePass) -> tuple[SitePass, SitePass]:
    """Two sites of one text with the positions that are kept and scored at both."""
    kept, scored = first.kept & second.kept, first.scored & second.scored
    return replace(first, kept=kept, scored=scored), replace(second, kept=kept, scored=scored)


def spliced(lm: Restartable, clean: SitePass, recode: Recode | None) -> Iterator[tuple[slice, Tensor]]:
    """The contexts of each batch and their logits [B, T, V], kept activations replaced by `recode` (None: left).

    recode maps rows [M, D] to rows [M, D].
    """
    for start in range(0, len(clean.tokens), clean.batch_size):
        contexts = slice(start, start + clean.batch_size)
        hidden, kept = clean.hidden[contexts], clean.kept[contexts]
        if recode is not None:
            hidden = hidden.clone()
            hidden[kept] = recode(hidden[kept]).to(hidden.dtype)
        yield contexts, clean.logits(lm, contexts, hidden)


def spliced_nll(lm: Restartable, clean: SitePass, recode: Recode | None) -> Float[Tensor, " M"]:
    """Next-token negative log-likelihoods (nats) of the scored positions under `recode`."""
    with torch.inference_mode():
        parts = [
            following_nll(logits, clean.tokens[contexts], clean.scored[contexts])
            for contexts, logits in spliced(lm, clean, recode)
        ]
    return torch.cat(parts)


def spliced_ce(lm: Restartable, clean: SitePass, recode: Recode | None) -> float:
    """Their mean: the cross-entropy in nats per token."""
    return float(spliced_nll(lm, clean, recode).double().mean())
