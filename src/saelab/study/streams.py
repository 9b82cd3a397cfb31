"""Which language models' SAEs are trained from the stream, why, and in which cells. Nothing is opened here.

Of a stream a sample is harvested, which all other stages read; training runs the language model itself.
"""

from collections.abc import Sequence
from itertools import chain

from saelab.study.levels import by_training
from saelab.study.sizes import size_of
from saelab.study.spec import ModelConfig, SaeSpec, StudyConfig, saes_of


def sites_of_model(study: StudyConfig, model: ModelConfig) -> list[str]:
    """All sites that are harvested: those that SAEs rebuild, then those that transcoders read."""
    saes = [s for s in saes_of(study) if s.model == model]
    return list(dict.fromkeys([*(s.site for s in saes), *(s.encodes for s in saes)]))


def activation_bytes(study: StudyConfig, model: ModelConfig, contexts: int | None = None) -> int:
    """What the activations of so many contexts (None: all that are trained on) take at all sites, roughly."""
    width = size_of(model.lm).d_model * (4 if study.harvest.dtype == "float32" else 2)
    positions = (study.text.train_contexts if contexts is None else contexts) * study.text.context
    return positions * width * len(sites_of_model(study, model))


def streamed(study: StudyConfig, model: ModelConfig) -> bool:
    """Whether the SAEs of a model are trained from the stream."""
    asked = study.harvest.stream
    return activation_bytes(study, model) > 1e9 * study.harvest.stored_gb if asked == "auto" else bool(asked)


def harvested_contexts(study: StudyConfig, model: ModelConfig) -> int:
    """Contexts whose activations are stored."""
    text = study.text
    if not streamed(study, model):
        return text.train_contexts
    return study.harvest.sample_contexts(text.context, text.train_contexts)


def why(study: StudyConfig, model: ModelConfig) -> str:
    """One sentence: where the SAEs of a model get their activations from, and why."""
    asked, size = study.harvest.stream, f"{activation_bytes(study, model) / 1e9:,.1f} GB"
    limit = f"harvest.stored_gb is {study.harvest.stored_gb:g}"
    if not streamed(study, model):
        reason = f"{limit}" if asked == "auto" else "harvest.stream is false"
        return f"{model.key}: activations are stored, {size} ({reason})."
    contexts = harvested_contexts(study, model)
    reason = f"all would take {size}, and {limit}" if asked == "auto" else "harvest.stream is true"
    stored = f"{activation_bytes(study, model, contexts) / 1e9:,.1f} GB"
    return (
        f"{model.key}: SAEs are trained from the stream ({reason}); activations of {contexts:,} contexts are stored, "
        f"{stored}, for all other stages."
    )


def stream_runs(study: StudyConfig, saes: Sequence[SaeSpec]) -> list[tuple[str, list[SaeSpec]]]:
    """The trained SAEs of a model by the cell that trains them: its name's end, and the SAEs in order."""
    found: list[tuple[str, list[SaeSpec]]] = []
    most = study.harvest.stream_saes
    for seed, steps in dict.fromkeys((s.seed, s.steps) for s in saes):
        own = by_training([s for s in saes if (s.seed, s.steps) == (seed, steps)])
        name = "stream" + (f".s{seed}" if seed else "") + ("" if steps is None else f".steps_{steps}")
        size = most or len(own)
        parts = [list(chain.from_iterable(own[i : i + size])) for i in range(0, len(own), size)]
        found += [(name if len(parts) == 1 else f"{name}.{k}", part) for k, part in enumerate(parts)]
    return found
