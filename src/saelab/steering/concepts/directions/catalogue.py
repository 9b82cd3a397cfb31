"""Every fitted direction by name. A new method is a file beside this and one line here; all checks run over them."""

from saelab.core.errors import UserError, nearest
from saelab.steering.concepts.directions.diff_means import diff_means
from saelab.steering.concepts.directions.lat import lat
from saelab.steering.concepts.directions.method import Method
from saelab.steering.concepts.directions.pca import pca
from saelab.steering.concepts.directions.probe import probe
from saelab.steering.concepts.directions.reft_r1 import reft_r1
from saelab.steering.concepts.directions.sae_auroc import sae_auroc
from saelab.steering.concepts.directions.sae_label import sae_label
from saelab.steering.concepts.directions.ssv import ssv

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("diff_means", "difference in means", diff_means, axbench="DiffMean"),
        Method("pca", "PCA", pca, axbench="PCA"),
        Method("lat", "LAT", lat, axbench="LAT"),
        Method("probe", "probe", probe, axbench="LinearProbe"),
        Method("ssv", "SSV", ssv, axbench="SteeringVector"),
        Method("reft_r1", "ReFT-r1", reft_r1, axbench="LsReFT"),
        Method("sae_feature", "SAE feature by label", sae_label, ("sae", "features")),
        Method("sae_auroc", "SAE feature by AUROC", sae_auroc, ("sae",)),
    )
}


def method_of(name: str) -> Method:
    """The method of this name, or a `UserError` with the nearest ones."""
    if name not in METHODS:
        raise UserError(f"There is no direction method {name!r}.", hint=nearest(name, METHODS))
    return METHODS[name]


def usable(*, sae: bool = False, features: bool = False) -> tuple[str, ...]:
    """The names of the methods that need no more than what is there, in the catalogue's order."""
    there = {"sae": sae, "features": features}
    return tuple(m.name for m in METHODS.values() if all(there[need] for need in m.needs))
