"""What a run knows about one of its SAEs: the facts of a model card that the SAE's own folder does not hold.

The data and their revision stand in the study file, FVU and the dead share in the SAE's fidelity record. An SAE that
does not lie in a run folder has none of them, and that is no error. Nothing is measured here.
"""

from pathlib import Path
from typing import Any

from saelab.lm.sources import SHORT_NAMES
from saelab.store.files import read_json
from saelab.store.layout import RunFolder
from saelab.store.references import parse_reference
from saelab.study.spec import StudyConfig
from saelab.text.corpora import CorpusConfig
from saelab.text.embedded import EMBEDDED

_SHOWN = ("ce_clean", "ce_spliced", "ce_mean_ablated", "ce_recovered", "ce_recovered_zero", "cosine", "norm_ratio")


def run_of(folder: Path) -> RunFolder | None:
    """The run whose SAE this folder is, if it is one's."""
    run = RunFolder(folder.resolve().parents[1])
    return run if run.study.is_file() and run.sae(folder.name).resolve() == folder.resolve() else None


def known_about(folder: Path) -> dict[str, Any]:
    """Facts of publish/card.py that the run knows; empty where the folder belongs to none."""
    run = run_of(folder)
    if run is None:
        return {}
    facts = _data(StudyConfig.from_yaml(run.study).text.corpus)
    record = run.interp(folder.name).fidelity.path
    if record.is_file():
        fidelity = read_json(record)
        facts |= {name: fidelity.get(name) for name in ("l0", "fvu", "dead_share")}
        facts["measured_on"] = f"{fidelity.get('tokens')} held-out tokens of the same corpus"
        facts["metrics"] = {n: fidelity[n] for n in _SHOWN if isinstance(fidelity.get(n), int | float)}
    return facts


def known_lm(name: str | None) -> dict[str, Any]:
    """The hub's reference of a language model that goes by a short name here, and the weights that the name stands for.

    The two are not the same numbers where the weights come quantised.
    """
    places = SHORT_NAMES.get(name or "", ())
    public = next((place for place in places if place.startswith("hf:")), None)
    return {"lm": public, "lm_weights": f"{name}: {places[0].partition('#')[0]}"} if public else {}


def _data(corpus: CorpusConfig) -> dict[str, Any]:
    """The corpus, and what pins it: a commit, a version, a sha256."""
    source = EMBEDDED if corpus.source == "embedded" else corpus.source
    reference = parse_reference(source)
    pinned = reference.version if reference.kind == "hf" else reference.sha256
    name = f"{reference.kind}:{reference.name}" if reference.kind != "pypi" else source.partition("#")[0]
    return {"data": name + (f" ({corpus.subset})" if corpus.subset else ""), "data_revision": pinned}
