"""What the names in a run's tables mean: kept in the run folder as `names.json`, from the catalogues of this process.

The page is made of artefacts alone, so what it says of a criterion, an architecture, an arm, a judge or a baseline is
written down here by the code that knows it. Names of a study's own tables are declared here; all others come from a
catalogue.
"""

from dataclasses import asdict
from typing import Any

from saelab.core.names import Measure
from saelab.instrument.readers import MEASURES
from saelab.judges.catalogue import JUDGES
from saelab.matching.baselines import BASELINES
from saelab.saes.catalogue import ARCHITECTURES
from saelab.selection.criteria.catalogue import CRITERIA, that_read
from saelab.steering import arms, methods
from saelab.study.spec import StudyConfig

# What interpretability is here: the mean over sampled features of how well the description tells held-out windows.
INTERPRETABILITY = "balanced_accuracy"
SCORES = (  # of a feature, from interp's table: what may predict how it steers
    Measure(INTERPRETABILITY, "interpretability (balanced accuracy)"),
    Measure("auroc", "interpretability (AUROC)"),
    Measure("embedding_auroc", "interpretability (AUROC by embedding)"),
    Measure("density", "density", "share of tokens"),
)
OWN = (
    Measure("interpretability", "interpretability"),
    Measure("utility", "utility"),
)
STABILITY = Measure("stability", "stability over training seeds", "cosine")
UNSELECTED = "none"  # what tables call the random arm steered by its own features: the SAE without selection
CONTROL_METHODS = (methods.RANDOM_DIRECTION, methods.UNSTEERED)  # what stands beside the steered features
DRAWN = ("label", "colour", "dash", "note", "note_of")  # of what a matching is read against
CONTROLS = that_read("nothing")  # criteria that know nothing of the feature


def predictors() -> tuple[Measure, ...]:
    """Every score of a feature that is set beside how it steers; the controls are a family of their own."""
    return (*SCORES, STABILITY, *(c for c in CRITERIA.values() if c.name not in CONTROLS))


def chosen_arms(study: StudyConfig) -> dict[str, arms.Arm]:
    """The arms that a criterion chose, by name."""
    return {name: arm for name, arm in arms.named(study.steering.arms).items() if arm.random is None}


def names_of(study: StudyConfig) -> dict[str, Any]:
    """The record: by kind and name, in the order in which the page shows them."""
    chosen = chosen_arms(study)
    rows = {UNSELECTED: {"label": arms.label(arms.RANDOM, arms.Arm(random=1)), "role": "baseline", "by": None}}
    rows |= {n: {"label": arms.label(n, a), "role": "chosen", "by": a.criterion} for n, a in chosen.items()}
    rows |= {
        n: {"label": label, "role": "control", "by": None}
        for n, label in methods.LABELS.items()
        if n in CONTROL_METHODS and study.rated
    }
    measures = (*OWN, *MEASURES, *SCORES, STABILITY, *CRITERIA.values())
    return {
        "architectures": {name: asdict(kind.look) for name, kind in ARCHITECTURES.items()},
        "measures": {m.name: {"label": m.label, "unit": m.unit, "signed": m.signed} for m in measures},
        "arms": rows,
        "judges": {kind.name: {"note": kind.note} for kind in JUDGES.values()},
        "matchings": {b.name: {k: getattr(b, k) for k in DRAWN} for b in BASELINES.values()},
    }
