"""The language model that a verb works on: the one that the SAEs name, unless another is asked for.

What an SAE was trained on stands in its files; a default over it would steer another model without a word. Another
model is said in one line, and one of another width or depth is refused before its weights are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saelab.cli.output import note
from saelab.core.errors import UserError
from saelab.core.sites import find_site

if TYPE_CHECKING:
    from saelab.lm.model import LanguageModel
    from saelab.saes.base import Sae
    from saelab.saes.directions import Directions


@dataclass(frozen=True)
class _Named:
    """What an SAE, or the rows of another dictionary, say of the model that they belong to."""

    lm: str | None
    site: str | None
    width: int


def model_for(found: "Iterable[Sae | Directions]", lm: str | None) -> "LanguageModel":
    """Load `lm`, or where it is None the model that the SAEs name. Raises `UserError` where that cannot be settled."""
    from saelab.lm.model import LanguageModel
    from saelab.lm.sources import same_model, the_one

    saes = [_named(one) for one in found]
    named = list(dict.fromkeys(sae.lm for sae in saes if sae.lm))
    if lm is None:
        lm = the_one(named)
    others = [name for name in named if not same_model(name, lm)]
    if others:
        _check_fit(saes, lm)
        note(f"saelab: the SAE names the language model {others[0]}; {lm} is used, as asked.")
    note(f"loading model {lm}")
    return LanguageModel.load(lm)


def check_reading(lm: str, sites: Iterable[str], width: int) -> None:
    """Refuse a model of another width or depth than is read at these sites, before its weights are."""
    _check_fit([_Named(None, site, width) for site in sites], lm)


def _named(found: "Sae | Directions") -> _Named:
    from saelab.saes.directions import Directions

    about = found if isinstance(found, Directions) else found.cfg
    return _Named(about.lm, about.site, found.W_dec.shape[1])


def _check_fit(saes: list[_Named], lm: str) -> None:
    from saelab.lm.loading import size_of

    width, depth = size_of(lm)
    for sae in saes:
        site = find_site(sae.site or "")
        if site is not None and site.layer >= depth:
            raise UserError(f"The SAE reads {site}, and {lm} has blocks 0 to {depth - 1}.", hint=_hint(sae))
        if sae.width != width and (site is None or site.kind != "z"):
            raise UserError(f"The SAE reads width {sae.width}, and {lm} has width {width}.", hint=_hint(sae))


def _hint(sae: _Named) -> str:
    from saelab.lm.sources import reference_of

    if sae.lm is None:
        return "Give the language model that it was trained on."
    if reference_of(sae.lm) is None:
        return f"It was trained on {sae.lm}: say where that lies, --lm hf:org/name or path:folder."
    return f"It was trained on {sae.lm}: leave out --lm, or give that."
