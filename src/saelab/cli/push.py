"""`saelab push`: an SAE to the hub (or a folder), with a complete model card."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.cli.output import say, show_record

if TYPE_CHECKING:
    from saelab.saes.base import Sae
    from saelab.saes.transcoder import Transcoder


def push(
    source: str,
    target: str,
    *,
    fact: list[str] | None = None,
    incomplete: bool = False,
    private: bool = False,
    replace: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Write an SAE's native folder with a model card to a hub repository or a folder.

    The card says language model, site, data and revision, tokens, L0, FVU, dead share, seed and versions. An SAE of a
    run folder knows them; of another, state what its files do not say.

    Parameters
    ----------
    source:
        The SAE: a folder, path:..., hf:..., or a short name.
    target:
        hf:org/name[@branch][/folder], or path:folder.
    fact:
        NAME=VALUE of a fact that the files do not say (lm, site, data, data_revision, tokens, l0, fvu, dead_share,
        seed, versions, license). May be given again.
    incomplete:
        Push although the card lacks facts; it then says which are not recorded.
    private:
        Make a new repository private.
    replace:
        Give up the files that a local folder (path:) holds.
    dry_run:
        Print the card, and push nothing.
    json:
        Print what was pushed as one JSON object.
    """
    from saelab.cli.references import check_of, not_held
    from saelab.core.errors import UserError
    from saelab.publish.card import card_of, written
    from saelab.publish.run_facts import known_about, known_lm
    from saelab.publish.upload import upload
    from saelab.saes.crosscoder import Crosscoder
    from saelab.saes.formats import holding, load, save_sae, source_of, spare
    from saelab.store.files import contents
    from saelab.store.references import local

    sae = load(source)
    if isinstance(sae, Crosscoder):
        raise UserError(f"{source} is a {sae.cfg.kind}, which saelab reads and does not write.")
    card = card_of(sae, known_about(source_of(source).folder) | known_lm(sae.cfg.lm)).given(fact or [])
    text = written(card, sae, target)
    if dry_run:
        say(text)
        return 0
    if card.missing and not incomplete:
        raise UserError(
            f"The model card would lack {', '.join(card.missing)}.",
            hint=f"State them: --fact {card.missing[0]}=..., or push with --incomplete.",
        )
    place = local(target.removeprefix("path:")) if target.startswith("path:") else None
    if place is not None:
        spare(source_of(source), place)
    held = contents(place) if place is not None else []
    with tempfile.TemporaryDirectory(prefix="saelab-push-") as made:
        # Named as it will be: sparsify keeps a site in its folder's name alone.
        folder = Path(made) / (target.removeprefix("path:").rstrip("/").rpartition("/")[2] or "sae")
        folder.mkdir()
        save_sae(_with_claims(sae, card.facts), folder, holding(sae))
        lost = not_held(sae, folder)
        (folder / "README.md").write_text(text, encoding="utf-8")
        pushed = upload(folder, target, private=private, replace=replace)
    if json:
        record = {"place": pushed, "replaced": held, "missing": card.missing, "facts": card.facts}
        show_record(record, as_json=True)
    else:
        if held:
            say(f"Replaced: {', '.join(held)}.")
        lacking = f" (not recorded: {', '.join(card.missing)})" if card.missing else ""
        say(f"{pushed}: pushed, with its card{lacking}.")
        if lost:
            say(f"Its files do not say its {' and '.join(lost)}; the card does.")
        say(f"Check it: {check_of(pushed, sae, lost)}")
    return 0


def _with_claims(sae: "Sae | Transcoder", facts: dict[str, Any]) -> "Sae | Transcoder":
    """What the card says goes into the config too, so that whoever loads the SAE can prove it against its claims."""
    claims = {n: facts[n] for n in ("data", "data_revision", "l0", "fvu", "dead_share") if facts.get(n) is not None}
    about = {"lm": sae.cfg.lm or facts.get("lm"), "site": sae.cfg.site or facts.get("site")}
    kind: Any = type(sae)
    return kind(sae.cfg.model_copy(update=about | {"metadata": sae.cfg.metadata | claims}), sae.weights())
