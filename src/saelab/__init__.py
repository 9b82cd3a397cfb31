"""saelab: do more interpretable SAE features steer a language model better, which features really steer, and what
becomes of a feature from layer to layer?

This module is the whole public face. Names are loaded when first used, so that `stats` and `report` need no torch. No
module of the package imports it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saelab.activations.live import open_stream
    from saelab.adapters.saebench import to_saebench
    from saelab.adapters.saelens import to_saelens
    from saelab.explore.opened import open_explored
    from saelab.lm.generate import Sampling
    from saelab.lm.model import LanguageModel
    from saelab.matching.match import match, verify
    from saelab.saes.catalogue import (
        AlignedConfig,
        BatchTopKConfig,
        GatedConfig,
        HierarchicalTopKConfig,
        JumpReluConfig,
        MatryoshkaConfig,
        ReluConfig,
        TopKConfig,
    )
    from saelab.saes.formats import load_crosscoder, load_latents, load_sae, load_transcoder, save_sae
    from saelab.saes.given import SaeLike
    from saelab.selection.effects import feature_effects
    from saelab.stats.agreement import agreement
    from saelab.training.sweep import train, train_sites
    from saelab.workflow import Evaluated, evaluate, run_study

_WHERE = {
    "LanguageModel": "saelab.lm.model",
    "Sampling": "saelab.lm.generate",
    "load_crosscoder": "saelab.saes.formats",
    "load_latents": "saelab.saes.formats",
    "load_sae": "saelab.saes.formats",
    "load_transcoder": "saelab.saes.formats",
    "save_sae": "saelab.saes.formats",
    "TopKConfig": "saelab.saes.catalogue",
    "BatchTopKConfig": "saelab.saes.catalogue",
    "ReluConfig": "saelab.saes.catalogue",
    "GatedConfig": "saelab.saes.catalogue",
    "JumpReluConfig": "saelab.saes.catalogue",
    "MatryoshkaConfig": "saelab.saes.catalogue",
    "HierarchicalTopKConfig": "saelab.saes.catalogue",
    "AlignedConfig": "saelab.saes.catalogue",
    "train": "saelab.training.sweep",
    "train_sites": "saelab.training.sweep",
    "feature_effects": "saelab.selection.effects",
    "match": "saelab.matching.match",
    "open_explored": "saelab.explore.opened",
    "open_stream": "saelab.activations.live",
    "verify": "saelab.matching.match",
    "agreement": "saelab.stats.agreement",
    "to_saebench": "saelab.adapters.saebench",
    "to_saelens": "saelab.adapters.saelens",
    "Evaluated": "saelab.workflow",
    "SaeLike": "saelab.saes.given",
    "evaluate": "saelab.workflow",
    "run_study": "saelab.workflow",
}

__all__ = [
    "AlignedConfig",
    "BatchTopKConfig",
    "Evaluated",
    "GatedConfig",
    "HierarchicalTopKConfig",
    "JumpReluConfig",
    "LanguageModel",
    "MatryoshkaConfig",
    "ReluConfig",
    "SaeLike",
    "Sampling",
    "TopKConfig",
    "agreement",
    "evaluate",
    "feature_effects",
    "load_crosscoder",
    "load_latents",
    "load_sae",
    "load_transcoder",
    "match",
    "open_explored",
    "open_stream",
    "run_study",
    "save_sae",
    "to_saebench",
    "to_saelens",
    "train",
    "train_sites",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"saelab has no {name!r}; it has {', '.join(__all__)}.")
    try:
        return getattr(import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        from saelab.core.extras import absent

        raise absent(error) or error from None


def __dir__() -> list[str]:
    return __all__
