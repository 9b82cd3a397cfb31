"""What several verbs do with a reference: `REFERENCE#site` names a site, and what is no SAE is described or refused.

Nothing here is printed, and no verb is known.
"""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from saelab.store.files import is_there

if TYPE_CHECKING:
    from saelab.saes.base import Sae
    from saelab.saes.crosscoder import Crosscoder
    from saelab.saes.directions import Directions
    from saelab.saes.transcoder import Transcoder
    from saelab.store.layout import RunFolder


def split_site(reference: str) -> tuple[str, str | None]:
    """The reference and the site after its last `#`; a path that exists, and the sha256 of a wheel, are left whole."""
    before, mark, after = reference.rpartition("#")
    if not mark or reference.startswith("pypi:") or is_there(reference.removeprefix("path:")):
        return reference, None
    from saelab.core.sites import house_name

    return before, house_name(after)


def text_at(text: str | None) -> str | None:
    """A reference of a text, of which `path:` may be left out where something of that name lies here."""
    bare = text is not None and not text.startswith(("path:", "hf:", "pypi:")) and is_there(text)
    return f"path:{text}" if bare else text


def run_of(reference: str) -> "tuple[RunFolder, str] | None":
    """The run folder that an SAE lies in, and its name there; None of one that lies elsewhere."""
    from saelab.store.layout import RunFolder

    folder = Path(split_site(reference)[0].removeprefix("path:")).resolve()
    run = RunFolder(folder.parent.parent)
    return (run, folder.name) if folder.parent == run.saes else None


def opened(reference: str, site: str | None = None) -> "tuple[Sae | Directions, str | None]":
    """An SAE as it is, and the decoder rows of the named site of anything else.

    site: of an SAE whose files do not say it, or which site of several, as after a `#`. Raises `UserError` where the
    files say another.
    """
    from saelab.core.errors import UserError
    from saelab.core.sites import house_name, parse_site
    from saelab.saes.base import Sae
    from saelab.saes.formats import load

    place, marked = split_site(reference)
    site = house_name(site) or marked
    found = load(place)
    if isinstance(found, Sae):
        if site is not None and found.cfg.site is None:
            found.cfg = found.cfg.model_copy(update={"site": str(parse_site(site))})
        if site not in (None, found.cfg.site):
            raise UserError(f"{place} is an SAE of {found.cfg.site}, not of {site}.")
        return found, found.cfg.site
    rows = found.directions(site)
    return rows, rows.site


def without_site(reference: str) -> str:
    """The hint for an SAE whose files say no site."""
    return (
        "Say it: --site resid_post.12; or write it down once: "
        f"saelab convert {quote(reference)} NEW-FOLDER --site resid_post.12 --lm NAME"
    )


def not_held(found: "Sae | Transcoder", folder: Path) -> list[str]:
    """Which of site and language model are known and not in the files that were written (pickled ones hold both)."""
    from saelab.saes.formats import format_of, load, source_of

    if format_of(source_of(folder)).pickle is not None:
        return []
    names = {"site": "site", "site_out": "site that it writes", "lm": "language model"}
    again = load(folder).cfg
    pairs = {said: (getattr(found.cfg, n, None), getattr(again, n, None)) for n, said in names.items()}
    return [said for said, (known, held) in pairs.items() if known not in (None, held)]


def check_of(place: str, found: "Sae | Transcoder", lost: list[str]) -> str:
    """The command that proves what was written; a pickle is converted first."""
    from saelab.lm.sources import reference_of
    from saelab.saes.base import Sae
    from saelab.saes.formats import format_of, source_of

    lm, check, before = reference_of(found.cfg.lm or ""), place, ""
    if Path(place).is_dir() and format_of(source_of(place)).pickle is not None:
        check = f"{place.rstrip('/')}-check"
        before = f"saelab convert {quote(place)} {quote(check)} && "
    site = f" --site {quote(found.cfg.site)}" if "site" in lost and isinstance(found, Sae) and found.cfg.site else ""
    return f"{before}saelab inspect {quote(check)}{site} --lm {quote(lm) if lm else 'NAME'}"


def described(found: "Transcoder | Crosscoder") -> dict[str, Any]:
    """What a transcoder or a dictionary of several sites is, as `inspect` prints it."""
    from saelab.interp.fidelity.rebuilt import ends
    from saelab.saes.crosscoder import Crosscoder

    cfg, weights = found.cfg, found.weights()
    read, written = ends(found)
    several = isinstance(found, Crosscoder)
    norms = {site: found.directions(site).W_dec.norm(dim=1) for site in written}
    record: dict[str, Any] = {
        "architecture": found.cfg.kind if isinstance(found, Crosscoder) else "transcoder",
        "activation function": cfg.act_fn,
        "reads": ", ".join(read),
        "writes": ", ".join(written),
        "d_in": cfg.d_in,
        "d_out": cfg.d_out,
        "d_sae": cfg.d_sae,
        "k": cfg.k,
        "lm": cfg.lm,
        "skip connection": "W_skip" in weights,
        "b_dec subtracted": False,
        "unit of codes": "as trained" if several else "as its file has them",
        "decoder norms": "; ".join(f"{s} {float(n.min()):.3g} to {float(n.max()):.3g}" for s, n in norms.items()),
    }
    if isinstance(found, Crosscoder):
        record["sets"] = f"{len(found.cfg.writes)} of {cfg.d_sae} latents"
    if "threshold" in weights:
        theta = weights["threshold"]
        record["threshold"] = f"{float(theta.min()):.3g} to {float(theta.max()):.3g}, strict >"
    plain = {k: v for k, v in cfg.metadata.items() if isinstance(v, str | int | float | bool)}
    record["provenance"] = ", ".join(f"{k} {v}" for k, v in plain.items()) or None
    return record
