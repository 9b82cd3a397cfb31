"""Fidelity: identity recovers all, the mean nothing; independent of batches; sinks and specials pass untouched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saelab.activations.site import SitePass, read_site, spliced_nll
from saelab.core.errors import UserError
from saelab.interp.fidelity.control import RandomDictionary, control_k
from saelab.interp.fidelity.measures import baselines_of, reconstruction_of, standard_error
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.text.corpora import Document
from saelab.text.pack import PackedText, pack

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_lm()


@pytest.fixture(scope="module")
def packed(lm: LanguageModel) -> PackedText:
    texts = [f"document {i} tells of {i * 7919 % 1000} things that are not told elsewhere. " * 4 for i in range(12)]
    return pack(
        [Document(str(i), t) for i, t in enumerate(texts)],
        lambda x: lm.tokenize(x, bos=False),
        context=48,
        bos_id=lm.bos_id,
        separator_id=257,
        special_ids=lm.special_ids,
    )


def mean_nll(lm: LanguageModel, clean, recode) -> float:
    return float(spliced_nll(lm, clean, recode).double().mean())


def guessed(lm: LanguageModel, clean: SitePass) -> SitePass:
    """The pass with what the LM itself holds most likely as the text that followed."""
    told = clean.tokens.clone()
    told[:, 1:] = lm.logits(clean.tokens).argmax(-1)[:, :-1]
    return replace(clean, tokens=told)


def test_identity_recovers_everything_and_the_mean_nothing(lm: LanguageModel, packed: PackedText) -> None:
    clean = guessed(lm, read_site(lm, packed, SITE))
    base = baselines_of(lm, clean)
    assert mean_nll(lm, clean, lambda x: x) == base.clean
    assert base.recovered(base.clean) == (1.0, 1.0)
    ablated = mean_nll(lm, clean, lambda x: clean.rows.mean(0).expand_as(x))
    assert base.recovered(ablated)[0] == 0.0
    assert base.recovered(mean_nll(lm, clean, torch.zeros_like))[1] == 0.0


def test_what_ablation_does_not_harm_is_not_recovered(lm: LanguageModel, packed: PackedText) -> None:
    """A random LM predicts nothing: a random SAE would recover nearly all of a harm that is noise.

    Control: the same LM on what it holds most likely.
    """
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.eye(32)
    clean = read_site(lm, packed, SITE)
    for text, known in ((clean, False), (guessed(lm, clean), True)):
        base = baselines_of(lm, text)
        recovered = base.recovered(mean_nll(lm, text, lambda x: x @ noise))
        assert (recovered[0] is not None) == known


def test_the_error_of_a_harm_counts_contexts_not_tokens() -> None:
    """Known answer: two contexts that differ, each token of one alike, are a sample of two."""
    harm, contexts = torch.tensor([1.0] * 50 + [3.0] * 50).double(), torch.tensor([0] * 50 + [1] * 50)
    assert standard_error(harm, contexts) == pytest.approx(math.sqrt(2) / 2)
    alone = standard_error(harm, torch.arange(100))
    assert alone == pytest.approx(0.1)  # control: as if every token had been drawn by itself


def test_the_clean_pass_is_the_model_itself(lm: LanguageModel, packed: PackedText) -> None:
    clean = read_site(lm, packed, SITE)
    tokens = packed.tokens.long()
    logits = lm.logits(tokens)[:, :-1].log_softmax(-1)
    direct = -logits.gather(-1, tokens[:, 1:, None])[..., 0][clean.scored[:, :-1]]
    torch.testing.assert_close(spliced_nll(lm, clean, None), direct)


def test_fidelity_does_not_depend_on_the_batch_size(lm: LanguageModel, packed: PackedText) -> None:
    noisy = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.eye(32)
    made = []
    for size in (1, 5, 64):
        clean = read_site(lm, packed, SITE, batch_size=size)
        made.append(spliced_nll(lm, clean, lambda x: x @ noisy))
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-4, atol=1e-4)


def test_only_document_tokens_are_spliced_and_scored(lm: LanguageModel, packed: PackedText) -> None:
    clean = read_site(lm, packed, SITE)
    special = torch.isin(packed.tokens, torch.tensor(sorted(lm.special_ids)))
    assert not clean.kept[special].any()
    assert not clean.scored[:, -1].any() and not clean.scored[:, 0].any()
    same = packed.document_ids[:, 1:] == packed.document_ids[:, :-1]
    assert same[clean.scored[:, :-1]].all()


def test_a_sink_is_passed_on_untouched_and_not_counted(packed: PackedText, lm: LanguageModel) -> None:
    class Sinking:
        """The tiny LM with one position of huge norm."""

        special_ids = lm.special_ids

        def run_to(self, tokens: Tensor, sites: Sequence[str]) -> Mapping[str, Tensor]:
            hidden = dict(lm.run_to(tokens, sites))
            hidden[SITE][:, 5] *= 200
            return hidden

        def run_from(self, hidden: Tensor, site: str) -> Tensor:
            seen.append(hidden)
            return lm.run_from(hidden, site)

    seen: list[Tensor] = []
    clean = read_site(Sinking(), packed, SITE)
    assert not clean.kept[:, 5].any() and clean.kept[:, 6].any()
    spliced_nll(Sinking(), clean, torch.zeros_like)
    spliced = torch.cat(seen)
    assert torch.equal(spliced[:, 5], clean.hidden[:, 5]) and not spliced[clean.kept].any()


def test_a_text_without_words_is_refused(lm: LanguageModel) -> None:
    tokens = torch.full((2, 8), 257, dtype=torch.int32)
    empty = PackedText(tokens, torch.full_like(tokens, -1), (), lm.bos_id, lm.special_ids)
    with pytest.raises(UserError, match="special tokens only"):
        read_site(lm, empty, SITE)


def rows(n: int = 600, d: int = 24) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(5)) + 3


def test_reconstruction_known_answers() -> None:
    x = rows()
    perfect = reconstruction_of(lambda a: a, lambda a: a, x)
    assert perfect.fvu == 0 and perfect.explained_variance == 1 and perfect.l0 == 24
    assert perfect.cosine == pytest.approx(1) and perfect.norm_ratio == pytest.approx(1)
    mean = x.mean(0)
    constant = reconstruction_of(torch.zeros_like, lambda a: a + mean, x)
    assert constant.fvu == pytest.approx(1, abs=1e-6) and constant.l0 == 0
    assert reconstruction_of(torch.zeros_like, lambda a: a, x).fvu > 1
    in_blocks = reconstruction_of(torch.relu, lambda a: a, x, block=7)
    whole = reconstruction_of(torch.relu, lambda a: a, x)
    assert in_blocks.fvu == pytest.approx(whole.fvu) and in_blocks.l0 == whole.l0


def test_the_as_coded_explained_variance_is_the_published_formula() -> None:
    x = rows()
    half = reconstruction_of(lambda a: a, lambda a: a / 2, x)
    square = float(x.square().sum(-1).mean())
    error = float((x / 2).square().sum(-1).mean())
    assert half.explained_variance_as_coded == pytest.approx(1 - error / (square - (square / 24) ** 2), rel=1e-5)


def test_the_random_dictionary_has_the_l0_asked_for_and_a_least_squares_scale() -> None:
    x = rows()
    random = RandomDictionary.fit(x, 64, 4, seed=1)
    codes = random.encode(x)
    assert (codes != 0).sum(-1).max() == 4
    quality = reconstruction_of(random.encode, random.decode, x)
    assert quality.l0 == pytest.approx(4, abs=0.05) and 0 < quality.fvu < 1
    for factor in (0.9, 1.1):
        other = RandomDictionary(random.directions, random.mean, random.k, random.scale * factor)
        assert reconstruction_of(other.encode, other.decode, x).fvu > quality.fvu
    again = RandomDictionary.fit(x, 64, 4, seed=1)
    assert torch.equal(again.directions, random.directions) and again.scale == random.scale


def test_control_k_is_the_nearest_half_octave() -> None:
    assert [control_k(v) for v in (0.2, 1.0, 15.1, 20.0, 31.4, 33.0, 60.0, 5000.0)] == [1, 1, 16, 24, 32, 32, 64, 4096]


def test_recovered_is_none_where_ablation_does_no_harm() -> None:
    from saelab.interp.fidelity.measures import Baselines

    assert Baselines(1.0, 1.0, 2.0).recovered(1.5) == (None, 0.5)
