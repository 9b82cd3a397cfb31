"""Fidelity on the real model: ablations hurt in the known order, an identity is free, a random dictionary is not."""

import pytest
import torch

from saelab.activations.site import read_site, spliced_nll
from saelab.interp.fidelity.control import RandomDictionary
from saelab.interp.fidelity.measures import baselines_of, reconstruction_of
from saelab.lm.model import LanguageModel
from saelab.text.corpora import Document
from saelab.text.pack import PackedText, pack_for

SITE = "resid_post.15"
TEXTS = (
    "The treaty was signed in Paris in 1783, and the war between Great Britain and its former colonies was over. ",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "She put the kettle on, sat down by the window, and waited for the rain to stop. It did not stop all day. ",
    "Water boils at a lower temperature on a mountain, because the pressure of the air is lower there. ",
)


@pytest.fixture(scope="module")
def text(smollm: LanguageModel) -> PackedText:
    documents = [Document(str(i), t * 3) for i, t in enumerate(TEXTS)]
    return pack_for(smollm, documents, context=64, separator_id=smollm.tokenizer.eos_token_id)


@pytest.mark.real
def test_ablations_splices_and_precision(smollm: LanguageModel, text: PackedText) -> None:
    clean = read_site(smollm, text, SITE)
    base = baselines_of(smollm, clean)
    assert 0.3 < base.clean < 4 and base.clean + 2 < base.mean_ablated < base.zero_ablated + 3
    identity = float(spliced_nll(smollm, clean, lambda x: x).double().mean())
    assert identity == pytest.approx(base.clean, abs=1e-6)
    random = RandomDictionary.fit(clean.rows, 2048, 32)
    quality = reconstruction_of(random.encode, random.decode, clean.rows)
    spliced = float(spliced_nll(smollm, clean, lambda x: random.decode(random.encode(x))).double().mean())
    recovered, _ = base.recovered(spliced)
    assert quality.fvu > 0.5 and recovered is not None and recovered < 0.7
    # bf16 above the site moves the cross-entropy by a few thousandths of a nat
    narrow = baselines_of(smollm.to_dtype("bfloat16"), clean)
    assert abs(narrow.clean - base.clean) < 0.02 and abs(narrow.mean_ablated - base.mean_ablated) < 0.1


@pytest.mark.real
def test_special_positions_and_sinks_are_not_spliced(smollm: LanguageModel, text: PackedText) -> None:
    clean = read_site(smollm, text, SITE)
    norms = clean.hidden.norm(dim=-1)
    assert not clean.kept[:, 0].any()
    assert norms[clean.kept].max() <= 10 * norms[text.counts].median()
    assert torch.isin(text.tokens[clean.kept], torch.tensor(sorted(smollm.special_ids))).sum() == 0
