"""What several verbs do with a reference: `REFERENCE#site` names a site, and what is no SAE is described or refused.

Nothing here is printed, and no verb is known.
"""

from typing import TYPE_CHECKING, Any

from saelab.store.files import is_there

if TYPE_CHECKING:
    from saelab.saes.base import Sae
    from saelab.saes.crosscoder import Crosscoder
    from saelab.saes.directions import Directions
    from saelab.saes.transcoder import Transcoder


def split_site(reference: str) -> tuple[str, str | None]:
    """The reference and the site after its last `#`; a path that exists, and the sha256 of a wheel, are left whole."""
    before, mark, after = reference.rpartition("#")
    if not mark or reference.startswith("pypi:") or is_there(reference.removeprefix("path:")):
        return reference, None
    from saelab.core.sites import house_name

    return before, house_name(after)


def opened(reference: str) -> "tuple[Sae | Directions, str | None]":
    """An SAE as it is, and the decoder rows of the named site of anything else."""
    from saelab.core.errors import UserError
    from saelab.saes.base import Sae
    from saelab.saes.formats import load

    place, site = split_site(reference)
    found = load(place)
    if isinstance(found, Sae):
        if site not in (None, found.cfg.site):
            raise UserError(f"{place} is an SAE of {found.cfg.site or 'a site that it does not say'}, not of {site}.")
        return found, found.cfg.site
    rows = found.directions(site)
    return rows, rows.site


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
        "gate": cfg.gate,
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
        record["blocks"] = f"{len(found.cfg.writes)} of {cfg.d_sae} latents"
    if "threshold" in weights:
        theta = weights["threshold"]
        record["threshold"] = f"{float(theta.min()):.3g} to {float(theta.max()):.3g}, strict >"
    plain = {k: v for k, v in cfg.metadata.items() if isinstance(v, str | int | float | bool)}
    record["provenance"] = ", ".join(f"{k} {v}" for k, v in plain.items()) or None
    return record
