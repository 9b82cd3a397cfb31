"""Effects on SmolLM2: the restart equals the papers' procedure, run through transformers' own forward with a hook."""

import pytest
import torch
from torch import Tensor

from saelab.lm.model import LanguageModel
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.selection.criteria.catalogue import CRITERIA, that_read
from saelab.selection.criteria.observation import ConceptTokens, NextToken, Observation
from saelab.selection.effects import PREFIX, feature_effects

SITE, F = "resid_post.15", 24


@pytest.mark.real
@pytest.mark.parametrize("positions", ["last", "all"])
def test_effects_equal_a_hook_and_two_passes(smollm: LanguageModel, positions: str) -> None:
    """Every criterion to 1e-4, alpha 10, the paper's prefix."""
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(F, smollm.d_model, generator=g), dim=-1) * 4
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": torch.zeros(F), "b_dec": torch.zeros(smollm.d_model)}
    sae = ReluSae(SaeConfig(architecture="relu", d_in=smollm.d_model, d_sae=F, site=SITE), weights)
    concept = ConceptTokens(torch.tensor([[f + 300, -1] for f in range(F)]), torch.tensor([[500, 501]] * F))
    found = feature_effects(
        smollm, sae, positions=positions, criteria=that_read("effect", "concept"), concept=concept, batch_size=16
    )
    tokens = torch.tensor(smollm.tokenize([PREFIX]))
    block = smollm.model.model.layers[15]
    with torch.inference_mode():
        base = NextToken(smollm.model(tokens).logits[:, -1])
        for feature in (0, 11, 23):

            def hook(module: object, inputs: object, output: Tensor, row: Tensor = decoder[feature]) -> Tensor:
                new = output.clone()
                new[:, slice(-1, None) if positions == "last" else slice(None)] += 10 * row
                return new

            handle = block.register_forward_hook(hook)
            steered = NextToken(smollm.model(tokens).logits[:, -1])
            handle.remove()
            top = torch.topk(smollm.unembed(decoder[feature]), 20).indices[None]
            seen = Observation(
                base, steered, top, 1, ConceptTokens(concept.inside[[feature]], concept.outside[[feature]])
            )
            for name in that_read("effect", "concept"):
                assert found[name][feature] == pytest.approx(float(CRITERIA[name].score(seen)), abs=1e-4), name
            assert abs(found["delta_confidence"][feature]) > 1e-3, "control: the edit does something"
