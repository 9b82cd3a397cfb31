"""Every architecture by name: the one place that lists them. A new architecture is a file and one line here."""

from typing import Any

from saelab.core.errors import UserError, nearest
from saelab.saes.architectures.aligned import AlignedConfig
from saelab.saes.architectures.batch_topk import BatchTopKConfig
from saelab.saes.architectures.gated import GatedConfig, GatedSae
from saelab.saes.architectures.hierarchical_topk import HierarchicalTopKConfig
from saelab.saes.architectures.jump_relu import JumpReluConfig, JumpReluSae
from saelab.saes.architectures.matching_pursuit import MatchingPursuitSae
from saelab.saes.architectures.matryoshka import MatryoshkaConfig
from saelab.saes.architectures.relu import ReluConfig, ReluSae
from saelab.saes.architectures.topk import TopKConfig, TopKSae
from saelab.saes.base import Sae, TrainConfig

# By the name that studies and configs use.
ARCHITECTURES: dict[str, type[TrainConfig]] = {
    kind.model_fields["architecture"].default: kind
    for kind in (
        ReluConfig,
        GatedConfig,
        TopKConfig,
        BatchTopKConfig,
        JumpReluConfig,
        MatryoshkaConfig,
        HierarchicalTopKConfig,
        AlignedConfig,
    )
}

# What a study made from a few words trains.
USUAL = tuple(kind.model_fields["architecture"].default for kind in (TopKConfig, JumpReluConfig))

# what a finished SAE encodes with, by SAELens' name
MODULES: dict[str, type[Sae]] = {
    m.saelens_name: m for m in (ReluSae, GatedSae, TopKSae, JumpReluSae, MatchingPursuitSae)
}


def level_key(architecture: str) -> str:
    """What an architecture's config calls its level: its k, or the L0 that it is controlled to."""
    return "k" if "k" in ARCHITECTURES[architecture].model_fields else "target_l0"


def training_config(architecture: str, *, level: int, **settings: Any) -> TrainConfig:
    """The config of an architecture by name, with `level` as its k or target L0."""
    if architecture not in ARCHITECTURES:
        raise UserError(f"There is no architecture {architecture!r}.", hint=nearest(architecture, ARCHITECTURES))
    kind = ARCHITECTURES[architecture]
    return kind.parse({**settings, level_key(architecture): level}, origin=f"the settings of {architecture}")
