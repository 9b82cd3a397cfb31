"""Absorption on a planted hierarchy: a dictionary that keeps the parent scores 0, one whose children took it over 1."""

import pytest
import torch
from saebench_fields import problems
from test_interp_core import drawn
from torch import Tensor

from saelab.interp.suite import absorption
from saelab.interp.suite.absorption import AbsorptionConfig, absorbed, letter_latents, probe_letters
from saelab.interp.suite.saebench_json import lacking, record
from saelab.interp.suite.words import WordActivations, read_words, vocabulary
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig

LETTERS_N, WORDS_N, D = 4, 6, 40  # every letter has six words of its own
CONFIG = AbsorptionConfig(
    max_k_value=2,
    min_GT_probe_f1=0.5,
    min_feats_for_eval=2,
    k_sparse_probe_num_epochs=400,
    k_sparse_probe_l1_decay=1.0,
)
U = 4 * torch.linalg.qr(drawn(D, D))[0][: LETTERS_N + LETTERS_N * WORDS_N]  # letters first, then words


def planted() -> WordActivations:
    """x = letter + word + noise; each word many times, so that the letter is the only thing its words share."""

    def some(times: int, seed: int) -> tuple[Tensor, Tensor]:
        word = torch.arange(LETTERS_N * WORDS_N).repeat(times)
        letter = word // WORDS_N
        return U[letter] + U[LETTERS_N + word] + 0.05 * drawn(len(word), D, seed=seed), letter

    (train, a), (test, b), (again, _) = some(12, 1), some(6, 2), some(6, 3)
    return WordActivations(train, a, test, b, again)


def dictionary(*, absorbing: int) -> Sae:
    """Latents of letters and words; the first `absorbing` words of each letter silence it and carry its direction."""
    n = LETTERS_N + LETTERS_N * WORDS_N
    encoder, decoder = U.clone() / 16, U.clone()
    for word in range(LETTERS_N * WORDS_N):
        letter, row = word // WORDS_N, LETTERS_N + word
        if word % WORDS_N < absorbing:
            encoder[letter] -= 2 * U[row] / 16
            decoder[row] = U[row] + U[letter]
    norms = decoder.norm(dim=1, keepdim=True)
    weights = {"W_enc": (encoder * norms).T, "W_dec": decoder / norms, "b_enc": torch.full((n,), -0.5)}
    return TopKSae(SaeConfig(architecture="topk", d_in=D, d_sae=n, k=n, lm="tiny"), weights | {"b_dec": torch.zeros(D)})


def test_a_hierarchy_is_not_absorbed_and_an_absorbing_dictionary_is() -> None:
    spelled = probe_letters(planted(), 0)
    assert min(spelled.f1[:LETTERS_N]) > 0.95 and max(spelled.f1[LETTERS_N:]) == 0
    whole = absorption.evaluate(spelled, dictionary(absorbing=0), CONFIG, 0)
    assert whole.reason is None and whole.metrics["mean"]["mean_absorption_fraction_score"] == 0
    assert whole.metrics["mean"]["mean_full_absorption_score"] == 0
    assert whole.metrics["mean"]["mean_num_split_features"] == 1
    half = absorption.evaluate(spelled, dictionary(absorbing=2), CONFIG, 0)
    fraction = half.metrics["mean"]["mean_absorption_fraction_score"]
    assert fraction is not None and fraction > 0.25
    # with the letters' own latents: exactly the words that took their letter over, a third of all
    words, sae = spelled.words, dictionary(absorbing=2)
    for letter in range(LETTERS_N):
        x = words.again[words.test_letters == letter]
        found, full = absorbed(spelled.probes.weight[letter], x, sae.encode(x), sae.W_dec, torch.tensor([letter]))
        assert full.float().mean() == pytest.approx(1 / 3) and (found > 0.9).equal(full) and found[~full].max() == 0
    assert {d["first_letter"] for d in half.details} == set("abcd")
    assert problems(record(half, dictionary(absorbing=2), "x", version="0")) == []


def test_too_few_letters_give_no_score_and_no_file() -> None:
    spelled = probe_letters(planted(), 0)
    result = absorption.evaluate(
        spelled, dictionary(absorbing=0), CONFIG.model_copy(update={"min_feats_for_eval": 9}), 0
    )
    assert result.reason is not None and result.metrics["mean"]["mean_absorption_fraction_score"] is None
    assert lacking(result)


def test_the_rules_on_hand_made_cases() -> None:
    probe, W_dec = torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    x = torch.tensor([[1.0, 0.0]] * 4)
    codes = torch.tensor(
        [
            [1.0, 0.0, 0.0],  # the letter's latent carries all: no absorption
            [0.0, 1.25, 0.0],  # silent, and another carries all: full
            [0.5, 0.625, 0.0],  # half and half
            [0.0, 0.0, 3.0],  # nothing along the probe: not absorbed by anything
        ]
    )
    fraction, full = absorbed(probe, x, codes, W_dec, torch.tensor([0]))
    assert fraction[:3].tolist() == [0.0, 1.0, 0.5] and full.tolist() == [False, True, False, False]
    assert fraction[3] == 0


def test_latents_are_added_while_they_help() -> None:
    yes = torch.arange(200) % 2 == 0
    codes = torch.zeros(200, 3)
    codes[yes & (torch.arange(200) % 4 == 0), 0] = 1.0  # half of the class
    codes[yes & (torch.arange(200) % 4 == 2), 1] = 1.0  # the other half
    codes[:, 2] = drawn(200).abs()
    found = letter_latents(torch.tensor([3.0, 2.0, 1.0]), codes, yes, codes, yes, CONFIG)
    assert found.tolist() == [0, 1]
    alone = letter_latents(torch.tensor([3.0, 1.0, 2.0]), codes, yes, codes, yes, CONFIG)
    assert alone.tolist() == [0]


def test_words_are_plain_tokens_and_are_read_at_themselves() -> None:
    strings = [" the", "cat", "a1", "é", " ", "<s>", "Dog"] * 4
    words = vocabulary(strings, 100, 0)
    assert set(words.strings) == {" the", "cat", "Dog"} and set(words.letters) == {19, 2, 3}
    lm = tiny_lm()
    one = read_words(lm, ["resid_post.0", "resid_post.1"], count=40, examples=1)
    few = one["resid_post.1"]
    assert len(few.train) == int(0.8 * (len(few.train) + len(few.test))) and few.test.shape == few.again.shape
    assert not torch.equal(few.test, few.again)  # other prompts
    assert torch.equal(
        read_words(lm, ["resid_post.1"], count=40, examples=1, batch_size=64)["resid_post.1"].train, few.train
    )
