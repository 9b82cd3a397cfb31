"""What every feature of an SAE does to the next token after a neutral prefix, in one walk over the dictionary.

The prefix runs once up to the SAE's site. For each batch of features the edited activations are restarted above the
site only (`positions="last"` also shares the keys and values of the earlier positions), the criteria read the batch's
logits, and the logits are dropped: nothing of size F x V is ever held. Several prefixes average. Exact: a hook and two
forward passes per feature give the same numbers, at a few dozen times the cost (docs/selection.md).

Knows nothing of judges, labels or files; `run.py` writes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError, refuse_name
from saelab.core.hardware import fitting
from saelab.core.progress import SILENT, Progress
from saelab.core.sites import Site
from saelab.lm.model import LanguageModel
from saelab.saes.transcoder import AnySae, Transcoder, acts_at, on_device
from saelab.selection.criteria.catalogue import Criterion, criteria_of, usual
from saelab.selection.criteria.lens_moments import Lens
from saelab.selection.criteria.observation import ConceptTokens, NextToken, Observation
from saelab.selection.edits import check_edit, edited

PREFIX = "From my experience,"
# Features whose next-token distributions are held at a time: what a criterion makes of them stays in the processor's
# cache instead of in fresh pages of memory, which cost as much as the arithmetic.
SLICE = 16


@torch.inference_mode()
def feature_effects(
    lm: LanguageModel,
    sae: AnySae,
    *,
    site: str | None = None,
    prefix: str | Sequence[str] = PREFIX,
    alpha: float | int = 10,
    k: int = 1,
    edit: str = "add",
    positions: str = "all",
    features: Sequence[int] | None = None,
    criteria: Sequence[str] | None = None,
    concept: ConceptTokens | None = None,
    lens_tokens: int = 20,
    batch_size: int = 128,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """Effects of all features (or of `features`, in that order) on the next token after `prefix`.

    Args:
        lm: the model that is edited.
        sae: whose decoder rows are the directions, and whose codes `scale` and `replace` change; a transcoder's rows
            act where it writes, by `add` alone.
        site: where to edit; the SAE's own site when not given.
        prefix: one neutral text or several; scores are means over them.
        alpha: strength: `add` adds alpha times the decoder row, `scale` and `replace` multiply the code by alpha.
        edit: "add", "scale" or "replace".
        k: tokens counted by Delta Token Confidence.
        positions: "all" edits every position of the prefix, BOS included; "last" only the last, which is cheaper.
        features: rows of the decoder; all when not given.
        criteria: names of `criteria.catalogue`; the usual ones when not given.
        concept: tokens of each feature's concept (rows in the order of the features), for `concept_lift`.
        lens_tokens: how many tokens the lens promotes, for the output score and `top_tokens`.
        batch_size: features at once.
        progress: told of features done.

    Returns a frame, row i = feature i: `feature`, one Float64 column per criterion, `top_tokens` (what the feature's
    direction promotes through the lens, best first). Raises `UserError` for a site, width, edit or criterion that does
    not fit.
    """
    refuse_name(lm, "saelab.LanguageModel.load(name)")
    refuse_name(sae, "saelab.load_sae(reference)")
    place = _place(lm, sae, site)
    check_edit(edit)
    if isinstance(sae, Transcoder) and edit != "add":
        raise UserError(f"A transcoder reads no codes where its features act, which {edit} changes.", hint="Use add.")
    if not math.isfinite(alpha):
        raise UserError(f"alpha must be a finite number, not {alpha}.")
    asked = criteria_of(usual() if criteria is None else criteria)
    looking = [c for c in asked if c.reads == "lens"]
    wanted = list(range(sae.W_dec.shape[0])) if features is None else [int(f) for f in features]
    texts = [prefix] if isinstance(prefix, str) else list(prefix)
    _check(texts, wanted, sae.W_dec.shape[0], batch_size, lm.vocab_size, k=k, lens_tokens=lens_tokens)
    starts = [_start(lm, place, text, positions) for text in texts]
    sae = on_device(sae, lm.device)
    walk = _Walk(sae, starts, [c for c in asked if c not in looking], edit, alpha, k)
    # Room for the results is taken before the walk: small tensors that outlive a batch would leave the heap in pieces.
    columns = {c.name: torch.empty(len(wanted), dtype=torch.float64) for c in asked}
    promoted = torch.empty(len(wanted), lens_tokens, dtype=torch.int64)
    with progress.task("feature effects", total=len(wanted), unit="features") as task:
        for first in range(0, len(wanted), batch_size):
            part = slice(first, first + batch_size)
            rows = torch.tensor(wanted[part], device=sae.W_dec.device)
            lens = lm.lens(sae.W_dec[rows].to(lm.dtype), place).float()
            top = torch.topk(lens, lens_tokens, dim=-1).indices
            found = fitting("features", len(rows), partial(walk.scored, rows, top, concept, first))
            if looking:
                seen = [Lens(some) for some in torch.split(lens, SLICE)]
                found |= {c.name: torch.cat([c.score(some) for some in seen]) for c in looking}
            for name, column in columns.items():
                column[part] = found[name]
            promoted[part] = top
            task.advance(len(rows))
    shown = [lm.token_strings(row) for row in promoted.numpy().tolist()]
    return pl.DataFrame({"feature": wanted, **{n: c.numpy() for n, c in columns.items()}, "top_tokens": shown})


@dataclass(frozen=True)
class _Start:
    """A prefix ready to be restarted: its activations where the edit is, and the way from there to the next token."""

    x: Float[Tensor, "T D"]
    next_logits: Callable[[Float[Tensor, "B T D"]], Float[Tensor, "B V"]]
    base: NextToken


def _start(lm: LanguageModel, site: Site, text: str, positions: str) -> _Start:
    tokens = lm.tokenize([text])[0]
    if positions == "last":
        prefix = lm.prefill(tokens, site)
        x = prefix.hidden[None]

        def next_logits(hidden: Tensor) -> Tensor:
            return lm.continue_from(prefix, hidden[:, 0])
    elif positions == "all":
        before = [] if site.of_stream else [Site("resid_pre", site.layer)]
        states = lm.run_to(torch.tensor([tokens], device=lm.device), [site, *before])
        x, stream = states[str(site)][0], states[str(before[0])] if before else None

        def next_logits(hidden: Tensor) -> Tensor:
            return lm.run_from(hidden, site, stream=stream, last=True)[:, 0]
    else:
        raise UserError(f"positions must be 'all' or 'last', not {positions!r}.")
    return _Start(x, next_logits, NextToken(next_logits(x[None])))


class _Walk:
    """Scores batches of features under every prefix."""

    def __init__(
        self,
        sae: AnySae,
        starts: Sequence[_Start],
        criteria: Sequence[Criterion],
        edit: str,
        alpha: float | int,
        k: int,
    ):
        self.sae, self.starts, self.criteria = sae, starts, criteria
        self.edit, self.alpha, self.k = edit, alpha, k
        dtype = sae.W_dec.dtype
        self.codes = [None if edit == "add" else sae.encode(start.x.to(dtype)) for start in starts]

    def scored(
        self,
        rows: Int[Tensor, "B"],
        top: Int[Tensor, "B L"],
        concept: ConceptTokens | None,
        at: int,
        together: int,
    ) -> dict[str, Tensor]:
        """Of features from the one at `at` on, so many together."""
        parts: list[dict[str, Tensor]] = []
        for first in range(0, len(rows), together):
            some, shown = rows[first : first + together], top[first : first + together]
            own = None if concept is None else concept.rows(at + first, at + first + len(some))
            parts.append(self.scores(some, shown, own))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]

    def scores(
        self, rows: Int[Tensor, "B"], top: Int[Tensor, "B L"], concept: ConceptTokens | None
    ) -> dict[str, Tensor]:
        """Mean over prefixes of each criterion, one entry per feature of the batch."""
        total = {criterion.name: torch.zeros(len(rows), device=top.device) for criterion in self.criteria}
        for start, codes in zip(self.starts, self.codes, strict=True):
            x = start.x.to(self.sae.W_dec.dtype)
            at_rows = x.new_zeros(len(rows), len(x)) if codes is None else codes[:, rows].T
            hidden = edited(x, at_rows, self.sae.W_dec[rows], self.sae.b_dec, edit=self.edit, alpha=self.alpha)
            logits = start.next_logits(hidden.to(start.x.dtype))
            for first in range(0, len(rows), SLICE):
                part = slice(first, first + SLICE)
                own = None if concept is None else concept.rows(first, first + SLICE)
                seen = Observation(start.base, NextToken(logits[part]), top[part], self.k, own)
                for criterion in self.criteria:
                    total[criterion.name][part] += criterion.score(seen) / len(self.starts)
        return total


def _check(texts: list[str], wanted: list[int], d_sae: int, batch_size: int, vocabulary: int, **counts: int) -> None:
    if not texts:
        raise UserError("Effects need at least one prefix.")
    for name, value in counts.items():
        if not 1 <= value <= vocabulary:
            raise UserError(f"{name} counts tokens, from 1 to {vocabulary}; {value} was given.")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    strange = [f for f in wanted if not 0 <= f < d_sae]
    if strange:
        raise UserError(f"Feature {strange[0]} does not exist.", hint=f"The SAE has features 0 to {d_sae - 1}.")


def _place(lm: LanguageModel, sae: AnySae, site: str | None) -> Site:
    name = site if site is not None else acts_at(sae)
    if name is None:
        raise UserError("This SAE does not say at which site it reads.", hint="Give site='resid_post.12' or the like.")
    place = lm.site(name)
    width = sae.W_dec.shape[1]
    if width != lm.width(place):
        raise UserError(
            f"The SAE reads activations of width {width}, but {lm.name} has width {lm.width(place)} at {place}.",
            hint="Use the language model that the SAE was trained on.",
        )
    return place
