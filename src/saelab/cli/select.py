"""`saelab select`: every feature's effect on the model's next token, and the features it would be worth steering
with.
"""

from pathlib import Path

from saelab.cli.output import show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError, nearest
from saelab.store.tables import write_table


def select(
    sae: str,
    *,
    lm: str = "smollm2-135m",
    by: str = "delta_confidence",
    top: int = 5,
    prefix: str = "From my experience,",
    alpha: float = 10.0,
    positions: str = "all",
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Score all features of an SAE and print the extremes of one criterion.

    Parameters
    ----------
    sae:
        Reference or folder of the SAE.
    lm:
        Language model: short name or reference.
    by:
        Criterion that ranks the features.
    top:
        Features shown per direction.
    prefix:
        Neutral text whose next token is watched.
    alpha:
        Strength of the edit (multiples of the decoder row).
    positions:
        Edited positions: all, or last (faster).
    out:
        Parquet file for the scores of all features.
    json:
        Print JSON.
    """
    import saelab

    model, opened = saelab.LanguageModel.load(lm), saelab.load_sae(sae)
    with shown() as progress:
        table = saelab.feature_effects(
            model, opened, prefix=prefix, alpha=alpha, positions=positions, progress=progress
        )
    if by not in table.columns:
        raise UserError(f"There is no criterion {by!r}.", hint=nearest(by, table.columns[1:-1]))
    if out is not None:
        write_table(out, table)
    ordered = table.sort(by, descending=True, nulls_last=True)
    extremes = ordered.head(top).vstack(ordered.tail(top)).unique("feature", maintain_order=True)
    columns = list(dict.fromkeys(["feature", by, "delta_confidence", "output_score", "kl"]))
    view = extremes.select(*columns, extremes["top_tokens"].list.head(5))
    show_table(view, as_json=json, title=f"The {top} largest and smallest by {by}, of {table.height} features")
    return 0
