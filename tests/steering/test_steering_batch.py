"""Batches that mix features, factors and prompts write what each row alone would; edits are per row and exact."""

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.lm.edit import Splice
from saelab.lm.generate import Sampling
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.steering import plan
from saelab.steering.batch import AnswerJob, write
from saelab.steering.config import UtilityConfig
from saelab.steering.directions.sae_feature import sae_feature
from saelab.steering.edits import Kind, edit_of

LM, SITE, D, F = tiny_lm(n_layers=4), "resid_post.1", 32, 24
KINDS: tuple[Kind, ...] = ("add", "clamp", "min_clamp", "subspace_clamp", "ablate")
INSTRUCTIONS = ["Say.", "Tell me about the long road to the sea.", "Why?"]


def sae_of(kind: str = "relu") -> Sae:
    g = torch.Generator().manual_seed(3)
    decoder = torch.randn(F, D, generator=g)
    weights = {
        "W_enc": decoder.T / 4,
        "W_dec": decoder,
        "b_enc": torch.zeros(F),
        "b_dec": torch.randn(D, generator=g) / 5,
    }
    config = SaeConfig(architecture=kind, d_in=D, d_sae=F, site=SITE, k=5)
    return TopKSae(config, weights) if kind == "topk" else ReluSae(config, weights)


SAE = sae_of()
DIRECTIONS = [sae_feature(SAE, f, 1.5 + f / 5) for f in (2, 9, 17)]
JOBS = [
    AnswerJob(instruction, direction, factor, seed)
    for seed, (instruction, direction, factor) in enumerate(
        (i, d, f) for i in INSTRUCTIONS for d in DIRECTIONS for f in (0.5, 2.0)
    )
] + [AnswerJob(i, None, 0.0, 90) for i in INSTRUCTIONS]


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_equals_row_by_row(kind: Kind, positions: str) -> None:
    """Greedy: whatever shares its batch (padding included), a row writes the same text."""
    settings = {"edit": kind, "sae": SAE, "positions": positions, "sampling": Sampling(6)}
    together = write(LM, JOBS, batch_size=64, **settings)
    assert together == write(LM, JOBS, batch_size=4, **settings)
    assert together == [write(LM, [job], **settings)[0] for job in JOBS]
    assert len({w.text for w in together}) > 3, "control: the rows do write different texts"


def test_sampling_does_not_depend_on_company() -> None:
    settings = {"sampling": Sampling(6, 1.0)}
    together = write(LM, JOBS, batch_size=64, **settings)
    assert together == [write(LM, [job], **settings)[0] for job in JOBS]


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing(kind: Kind) -> None:
    """Generation with its cache equals choosing each token from a whole forward pass under the same edit."""
    job = JOBS[3]
    assert job.direction is not None
    text = write(LM, [job], edit=kind, sae=SAE, sampling=Sampling(5, 0.0))[0].text
    vectors, strengths = job.direction.vector[None], torch.tensor([job.direction.strength(job.factor)])
    edit = edit_of(kind, SITE, vectors, strengths, "all", sae=SAE, features=torch.tensor([job.direction.feature]))
    ids = LM.chat(job.instruction)
    start = len(ids)
    for _ in range(5):
        ids.append(int(LM.logits(torch.tensor([ids]), edits=[edit])[0, -1].argmax()))
    assert LM.decode(ids[start:]) == text


def test_each_row_has_its_own_factor_when_clamping() -> None:
    """AxBench's release writes one factor into all rows of a mixed batch; here every row gets its own code."""
    features, codes = torch.tensor([4, 4, 11]), torch.tensor([1.0, 6.0, 3.0])
    length = SAE.W_dec[features].norm(dim=-1)
    edit = edit_of(
        "clamp", SITE, SAE.W_dec[features] / length[:, None], codes * length, "all", sae=SAE, features=features
    )
    x = torch.randn(3, 7, D, generator=torch.Generator().manual_seed(0))
    moved = edit.apply(x, torch.arange(3))
    for row in range(3):
        z = SAE.encode(x[row])
        expected = x[row] + (codes[row] - z[:, features[row]])[:, None] * SAE.W_dec[features[row]]
        torch.testing.assert_close(moved[row], expected, atol=1e-4, rtol=1e-4)
    one_factor = x + (codes[-1] - SAE.encode(x)[..., 4])[..., None] * SAE.W_dec[4]
    assert (moved[0] - one_factor[0]).abs().max() > 1, "control: the defect would be seen"


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_clamping_one_code_equals_encode_overwrite_decode(kind: str) -> None:
    """The pruned form (one code read, one row added) is the full form with the reconstruction error put back."""
    sae = sae_of(kind)
    feature, code = 7, 4.0
    row = sae.W_dec[feature]
    edit = edit_of(
        "clamp",
        SITE,
        (row / row.norm())[None],
        code * row.norm()[None],
        "all",
        sae=sae,
        features=torch.tensor([feature]),
    )

    def full(x: Tensor) -> Tensor:
        codes = sae.encode(x)
        error = x - sae.decode(codes)
        codes = codes.clone()
        codes[..., feature] = code
        return sae.decode(codes) + error

    tokens = torch.tensor(LM.tokenize(["The cat sat on the mat."]))
    torch.testing.assert_close(
        LM.logits(tokens, edits=[edit]), LM.logits(tokens, edits=[Splice(SITE, full)]), atol=1e-4, rtol=1e-4
    )


def test_clamping_to_the_code_it_has_does_nothing_and_min_clamp_never_lowers() -> None:
    feature = torch.tensor([3])
    x = torch.randn(1, 9, D, generator=torch.Generator().manual_seed(1))
    length = SAE.W_dec[3].norm()
    code = SAE.encode(x)[0, :, 3]
    vector = (SAE.W_dec[3] / length)[None]
    same = edit_of("clamp", SITE, vector, (code[4] * length)[None], "all", sae=SAE, features=feature)
    torch.testing.assert_close(same.apply(x, torch.arange(1))[0, 4], x[0, 4], atol=1e-6, rtol=1e-6)
    low = edit_of("min_clamp", SITE, vector, torch.zeros(1), "all", sae=SAE, features=feature)
    torch.testing.assert_close(low.apply(x, torch.arange(1)), x)
    assert (
        edit_of("clamp", SITE, vector, torch.zeros(1), "all", sae=SAE, features=feature).apply(x, torch.arange(1)) != x
    ).any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_direction_are_the_plain_model_bit_for_bit(kind: Kind) -> None:
    """An unsteered text in a steered batch, and strength 0 for addition."""
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(2))
    vectors = torch.stack([DIRECTIONS[0].vector, torch.zeros(D)])
    edit = edit_of(kind, SITE, vectors, torch.tensor([2.0, 0.0]), "all", sae=SAE, features=torch.tensor([2, -1]))
    moved = edit.apply(x, torch.arange(2))
    assert torch.equal(moved[1], x[1]) and not torch.equal(moved[0], x[0])
    nothing = edit_of("add", SITE, vectors, torch.zeros(2), "all")
    assert torch.equal(nothing.apply(x, torch.arange(2)), x)


def test_nothing_of_the_edit_stays_behind() -> None:
    """Perplexity is by the unsteered model: after steering, the model's logits are its own, bit for bit."""
    tokens = torch.tensor(LM.tokenize(["The cat sat."]))
    before = LM.logits(tokens)
    write(LM, JOBS, edit="clamp", sae=SAE, sampling=Sampling(3, 0.0))
    assert torch.equal(LM.logits(tokens), before)


def test_prompting_asks_before_the_instruction_and_is_judged_on_the_instruction() -> None:
    config = UtilityConfig(n_dev=1, n_test=1)
    rows = plan.dev_rows({}, config.factors, [1], {5: "Speak of ships."})
    assert [(r.method, r.feature) for r in rows] == [("prompting", 5)]
    job = plan.job(rows[0], {}, {5: "Speak of ships."}, INSTRUCTIONS, 0)
    assert job.instruction == f"Speak of ships.\n\nQuestion: {INSTRUCTIONS[1]}"


def test_the_budget_is_told_before_the_work() -> None:
    """AxBench's setting: 14 factors, 5 dev and 5 test instructions are 75 judged texts per direction, not 140."""
    config = UtilityConfig(factors=tuple(float(i) for i in range(1, 15)), n_dev=5, n_test=5, max_new_tokens=128)
    found = plan.budget(config, directions=500, features=0)
    assert found.judged == 500 * 75 and found.calls == 3 * found.judged
    assert plan.budget(config, 2, 2).judged == 2 * 75 + 2 * 10
    assert plan.budget(config, 2, 2).tokens == 128 * (2 * 75 + 10)


def test_bad_edits_get_a_sentence() -> None:
    with pytest.raises(UserError, match="min_clamp"):
        edit_of("min_clam", SITE, torch.zeros(1, D), torch.zeros(1), "all")
    with pytest.raises(UserError, match="SAE feature"):
        edit_of("clamp", SITE, torch.ones(1, D), torch.ones(1), "all")
    elsewhere = sae_feature(SAE, 2, 1.0)
    object.__setattr__(elsewhere, "site", "resid_post.2")
    with pytest.raises(UserError, match="one site"):
        write(LM, [JOBS[0], AnswerJob("Say.", elsewhere, 1.0, 0)])
