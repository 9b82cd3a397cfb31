"""`saelab convert`: an SAE of any format into another. The only verb that opens pickles, in a closed process."""

from pathlib import Path

from saelab.cli.declared import NOTHING, DeclaredFacts
from saelab.cli.output import say, show_record
from saelab.cli.references import check_of, not_held


def convert(
    source: str,
    folder: Path,
    *,
    to: str | None = None,
    from_format: str | None = None,
    facts: DeclaredFacts = NOTHING,
    site: str | None = None,
    lm: str | None = None,
    replace: bool = False,
    json: bool = False,
) -> int:
    """Write an SAE in another format.

    Parameters
    ----------
    source:
        A folder or file, path:..., hf:org/name@revision/folder.
    folder:
        Where the new files go: a new or empty folder.
    to:
        saelens, dictionary_learning, sparsify or gemma_scope; by default saelens, of a TopK transcoder sparsify.
    from_format:
        Format of the source, where two could fit.
    site:
        Where the SAE reads (resid_post.12), where the files do not say.
    lm:
        Its language model, where the files do not say.
    replace:
        Give up the files that the folder holds; what they were is printed.
    json:
        Print what was written as one JSON object.
    """
    from saelab.saes.formats import convert_sae, holding
    from saelab.store.files import contents

    held = contents(folder) if replace else []
    declared = {**facts.given(), "site": site, "lm": lm}
    sae = convert_sae(source, folder, to=to, format=from_format, replace=replace, **declared)
    to = to or holding(sae)
    if json:
        record = {"folder": str(folder), "format": to, "replaced": held, **sae.cfg.model_dump(exclude={"metadata"})}
        show_record(record, as_json=True)
    else:
        what = getattr(sae.cfg, "architecture", "transcoder")
        say(f"{folder}: {to}, {what}, {sae.cfg.d_in} by {sae.cfg.d_sae}.")
        if held:
            say(f"Replaced: {', '.join(held)}.")
        lost = not_held(sae, folder)
        if lost:
            say(f"Its files as {to} do not say its {' and '.join(lost)}.")
        say(f"Check it: {check_of(str(folder), sae, lost)}")
    return 0
