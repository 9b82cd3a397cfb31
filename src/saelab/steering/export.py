"""Directions as files that others read: safetensors, and the feature table of lm-evaluation-harness's steered model.

The safetensors file holds one unit vector per name and, as metadata, what makes it a direction (site, distance and
where that came from, method, origin, feature). The harness reads `W_dec[feature_index]` as it is and adds
`steering_coefficient` times it at all positions (its `steered` model, columns below), so the coefficient of a strength
s is s / |W_dec[f]|. No language model here.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import parse_site
from saelab.steering.direction import Direction
from saelab.store.files import write_text
from saelab.store.tensors import read_metadata, read_tensors, write_tensors

KEY = "directions"  # of the metadata
# Keys of the metadata, and the field of a direction that each holds.
FIELDS = {n: n for n in ("site", "reference", "method", "origin", "reference_source", "feature")}
FIELDS |= {"reference": "distance", "reference_source": "distance_source"}
COLUMNS = (
    "loader", "action", "sparse_model", "hookpoint", "feature_index", "steering_coefficient", "sae_id", "description",
)  # fmt: skip


def save_directions(path: Path, directions: Mapping[str, Direction]) -> None:
    """Write unit vectors by name, with what `load_directions` needs to make them directions again."""
    about = {name: {key: getattr(d, field) for key, field in FIELDS.items()} for name, d in directions.items()}
    # One key: safetensors writes several in an order that changes from call to call.
    write_tensors(path, {name: d.vector for name, d in directions.items()}, {KEY: json.dumps(about)})


def load_directions(path: Path) -> dict[str, Direction]:
    """The directions of a file; one that does not say what its vectors are is an `ArtefactError`."""
    said, found = read_metadata(path).get(KEY, "{}"), {}
    for name, vector in read_tensors(path).items():
        try:
            about = json.loads(said)[name]
            found[name] = Direction(vector=vector, **{field: about[key] for key, field in FIELDS.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{path} does not say what {name!r} is: {error!r}.") from None
    return found


@dataclass(frozen=True)
class HarnessRow:
    """One feature to steer with in the harness; `coefficient` multiplies the decoder row as it is stored.

    sparse_model: a release of sae_lens, or a folder or hub name of sparsify. sae_id: sae_lens' only.
    """

    sparse_model: str
    site: str
    feature: int
    coefficient: float | int
    sae_id: str = ""
    description: str = ""
    loader: str = "sae_lens"
    action: str = "add"


def write_harness(path: Path, rows: Sequence[HarnessRow]) -> None:
    """The feature table that the harness's `steer_path` takes. It keeps one row per hookpoint: the last one wins there,
    so a second row of one site is refused here.
    """
    sites = [parse_site(r.site) for r in rows]
    for site in sites:
        if site.kind != "resid_post":
            raise UserError(f"The harness steers at a block's output, not at {site}.")
    if len(set(sites)) < len(sites):
        raise UserError("The harness steers with one feature per site; two rows have the same site.")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row, site in zip(rows, sites, strict=True):
        place = f"layers.{site.layer}"
        cells = (row.loader, row.action, row.sparse_model, place, row.feature, row.coefficient)
        table.writerow((*cells, row.sae_id, row.description))
    write_text(path, text.getvalue())
