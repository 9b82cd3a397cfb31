"""The shuffled language model: the same values in every tensor, in other places, and nothing learnt."""

import pytest
import torch

from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel


def test_every_tensor_keeps_its_values_and_loses_their_places(lm: LanguageModel) -> None:
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    found, again, other = lm.shuffled(), lm.shuffled(), lm.shuffled(seed=1)
    moved = 0
    for name, p in found.model.named_parameters():
        assert torch.equal(p.flatten().sort().values, before[name].flatten().sort().values), name
        assert torch.equal(p, dict(again.model.named_parameters())[name])
        varied = bool((before[name] != before[name].flatten()[0]).any())
        moved += varied and not torch.equal(p, before[name])
        assert not varied or not torch.equal(p, dict(other.model.named_parameters())[name]), "control: another seed"
    assert moved > 4
    for name, p in lm.model.named_parameters():
        assert torch.equal(p, before[name]), "the model itself is left"
    tied = lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight
    assert tied == (found.model.get_input_embeddings().weight is found.model.get_output_embeddings().weight)


def test_it_runs_and_computes_something_else(llama: LanguageModel) -> None:
    found, tokens = llama.shuffled(), torch.arange(5, 17)[None]
    assert found.name == f"{llama.name} (shuffled_weights)" and "shuffled_weights" in found.reference
    site = "resid_post.2"
    theirs, own = (m.run_to(tokens, [site])[site] for m in (found, llama))
    assert torch.isfinite(theirs).all() and theirs.shape == own.shape
    assert torch.nn.functional.cosine_similarity(theirs, own, dim=-1).abs().max() < 0.9
    assert torch.equal(llama.to_dtype("float32").run_to(tokens, [site])[site], own), "control: a plain copy agrees"


def test_what_the_files_of_its_saes_name_opens_nothing_and_says_so() -> None:
    """Control: the name without the mark is looked for."""
    with pytest.raises(UserError, match=r"control, which no name opens") as found:
        LanguageModel.load("path:/no/such (shuffled_weights)")
    assert "lm: path:/no/such`" in str(found.value.hint)
    with pytest.raises(UserError, match=r"There is nothing at /no/such"):
        LanguageModel.load("path:/no/such")
