"""Settings that a study gives and nothing in it reads: said before it runs, as whoever wrote them believes in them.

A setting is read where a cell's key depends on it. Knows keys alone, never what a stage does with a setting.
"""

from collections.abc import Iterator

from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig

# Of these every setting is in the keys of all cells that read it; others say how, not what (a price, a batch of calls).
SECTIONS = ("harvest", "selection", "steering", "instrument", "matching")
DECIDING = ("stream", "stored_gb")  # of a harvest: read, though most values of them say the same


def told_unread(study: StudyConfig) -> Iterator[str]:
    """At most one sentence: the settings other than their defaults that change no cell, such as `steering.n_test` of a
    study whose texts no judge rates.
    """
    found = list(_unread(study))
    if not found:
        return
    rated = any(key.startswith("steering.") for key in found) and not study.rated
    why = " Texts are rated where `judge` is a language model or `steering.ratings` is true." if rated else ""
    yield f"Given, and read by nothing in this study: {', '.join(found)}.{why}"


def _unread(study: StudyConfig) -> Iterator[str]:
    keys = {cell.key for cell in cells_of(study)}
    for section in SECTIONS:
        config = getattr(study, section)
        for name, field in type(config).model_fields.items():
            default = field.get_default(call_default_factory=True)
            if name not in DECIDING and getattr(config, name) != default:
                other = study.model_copy(update={section: config.model_copy(update={name: default})})
                if {cell.key for cell in cells_of(other)} == keys:
                    yield f"{section}.{name}"
