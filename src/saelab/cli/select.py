"""`saelab select`: every feature's effect on the model's next token, and the features it would be worth steering
with.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saelab.cli.models import model_for
from saelab.cli.output import show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError, nearest
from saelab.store.tables import read_table, write_table

if TYPE_CHECKING:
    from saelab.saes.base import Sae


def select(
    sae: str,
    *,
    lm: str | None = None,
    site: str | None = None,
    by: str | None = None,
    top: int = 5,
    prefix: str = "From my experience,",
    alpha: float = 10.0,
    positions: Literal["all", "last"] = "all",
    edit: Literal["add", "scale", "replace"] = "add",
    k: int = 1,
    all_criteria: bool = False,
    contexts: Path | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Score all features of an SAE and print the extremes of one criterion.

    Parameters
    ----------
    sae:
        Reference or folder of the SAE.
    lm:
        Language model: short name or reference; by default the one that the SAE names.
    site:
        Where the SAE reads, if its files do not say.
    by:
        Criterion that ranks the features; by default Delta Token Confidence.
    top:
        Features shown per direction.
    prefix:
        Neutral text whose next token is watched. Several, separated by |, are averaged.
    alpha:
        Strength of the edit: multiples of the decoder row (add) or of the feature's code (scale, replace).
    positions:
        Edited positions: all, or last (faster).
    edit:
        How a feature is changed: added, its code multiplied, or everything replaced by it.
    k:
        Most likely tokens that Delta Token Confidence counts.
    all_criteria:
        Compute every criterion, not the usual ones only.
    contexts:
        Table of top contexts (contexts.parquet of the interp stage), for the input score.
    out:
        Parquet file for the scores of all features.
    json:
        Print JSON.
    """
    import saelab
    from saelab.selection.criteria.catalogue import CRITERIA, that_read, usual

    computed, of_contexts = that_read("effect", "lens"), that_read("contexts")
    usable = [*computed, *(of_contexts if contexts is not None else ())]
    by = by or usual()[0]
    if by not in usable:
        hint = "Give --contexts." if by in of_contexts else nearest(by, usable)
        raise UserError(f"Features cannot be ranked by {by!r} here.", hint=hint)
    if top < 1:
        raise UserError(f"--top is how many features are shown per direction, not {top}.")
    seen = None if contexts is None else read_table(contexts, ["feature", "tokens", "peak"])
    wanted = list(computed if all_criteria else usual())
    if by in computed and by not in wanted:
        wanted.append(by)
    opened = _at_its_site(sae, site)
    model = model_for([opened], lm)
    with shown() as progress:
        table = saelab.feature_effects(
            model,
            opened,
            prefix=[text.strip() for text in prefix.split("|")],
            alpha=alpha,
            k=k,
            edit=edit,
            positions=positions,
            criteria=wanted,
            progress=progress,
        )
    if seen is not None:
        for name in of_contexts:
            table = CRITERIA[name].score(table, seen)
    if out is not None:
        write_table(out, table)
    ordered = table.sort(by, descending=True, nulls_last=True)
    extremes = ordered.head(top).vstack(ordered.tail(top)).unique("feature", maintain_order=True)
    columns = list(dict.fromkeys(["feature", by, *usual()[:3]]))
    view = extremes.select(*columns, extremes["top_tokens"].list.head(5))
    show_table(view, as_json=json, title=f"The {top} largest and smallest by {by}, of {table.height} features")
    return 0


def _at_its_site(reference: str, site: str | None) -> "Sae":
    from saelab.cli.references import opened, without_site
    from saelab.saes.base import Sae

    found, place = opened(reference, site)
    if not isinstance(found, Sae):
        raise UserError(f"{reference} is no SAE, and select scores an SAE's features.", hint="saelab steer takes it.")
    if place is None:
        raise UserError("This SAE does not say at which site it was trained.", hint=without_site(reference))
    return found
