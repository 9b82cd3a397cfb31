"""Effects of features: the restart equals a plain hook and two forward passes, for every edit and position rule."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from torch import Tensor

from saelab.core.errors import UserError
from saelab.lm.edit import Splice
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.base import Sae, SaeConfig
from saelab.selection.criteria.catalogue import CRITERIA, that_read, usual
from saelab.selection.criteria.observation import ConceptTokens, NextToken, Observation
from saelab.selection.effects import PREFIX, feature_effects
from saelab.selection.run import SelectionConfig, run
from saelab.store.tables import read_table

F, D, SITE = 40, 32, "resid_post.1"
EFFECTS = that_read("effect", "concept")


class PlainSae(Sae):
    """A ReLU autoencoder of random weights."""

    saelens_name = "standard"

    def activate(self, pre: Tensor) -> Tensor:
        return pre.clamp(min=0)


def plain_sae(d_in: int = D, site: str | None = SITE) -> PlainSae:
    g = torch.Generator().manual_seed(3)
    decoder = torch.nn.functional.normalize(torch.randn(F, d_in, generator=g), dim=-1)
    weights = {
        "W_enc": decoder.T.clone(),
        "W_dec": decoder,
        "b_enc": torch.zeros(F),
        "b_dec": torch.randn(d_in, generator=g) / 9,
    }
    return PlainSae(SaeConfig(architecture="relu", d_in=d_in, d_sae=F, site=site), weights)


def edit_fn(sae: Sae, feature: int, edit: str, alpha: float, positions: str) -> Callable[[Tensor], Tensor]:
    """The edit as a hook on the whole stream, written down from its definition."""

    def change(x: Tensor) -> Tensor:
        codes = sae.encode(x.float())
        if edit == "add":
            new = x + alpha * sae.W_dec[feature]
        else:
            only = torch.zeros_like(codes)
            only[..., feature] = alpha * codes[..., feature]
            if edit == "replace":
                new = sae.decode(only)
            else:
                kept = codes.clone()
                kept[..., feature] = alpha * codes[..., feature]
                new = sae.decode(kept) + (x - sae.decode(codes))
        if positions == "last":
            new = torch.cat([x[:, :-1], new[:, -1:]], dim=1)
        return new

    return change


def reference(
    lm: LanguageModel, sae: Sae, feature: int, text: str, *, edit: str, positions: str, k: int
) -> dict[str, float]:
    """Two full forward passes per feature and the criteria on their last positions."""
    tokens = torch.tensor(lm.tokenize([text]))
    hook = Splice(str(sae.cfg.site), edit_fn(sae, feature, edit, 3.0, positions))
    base, steered = (NextToken(lm.logits(tokens, edits=edits)[:, -1]) for edits in ([], [hook]))
    top = torch.topk(lm.unembed(sae.W_dec[feature]), 20).indices[None]
    concept = ConceptTokens(torch.tensor([[feature, 2]]), torch.tensor([[7, 8]]))
    seen = Observation(base, steered, top, k, concept)
    return {name: float(CRITERIA[name].score(seen)) for name in EFFECTS}


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("edit", ["add", "scale", "replace"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_effects_equal_two_plain_passes(family: str, edit: str, positions: str) -> None:
    """Every criterion, every feature, several prefixes: equal to the mean over prefixes of the plain procedure."""
    lm, sae = tiny_lm(family), plain_sae()
    prefixes = ["From my experience,", "It is often said that"]
    concept = ConceptTokens(torch.tensor([[f, 2] for f in range(F)]), torch.tensor([[7, 8]] * F))
    found = feature_effects(
        lm, sae, prefix=prefixes, alpha=3, k=2, edit=edit, positions=positions, criteria=list(EFFECTS), concept=concept,
        batch_size=16,
    )  # fmt: skip
    assert found["feature"].to_list() == list(range(F))
    for feature in range(0, F, 7):
        per = [reference(lm, sae, feature, p, edit=edit, positions=positions, k=2) for p in prefixes]
        for name in EFFECTS:
            assert found[name][feature] == pytest.approx(np.mean([r[name] for r in per]), abs=1e-4), name


def test_positions_and_edits_are_different_questions() -> None:
    """Control: the equalities above are not between things that are always equal."""
    lm, sae = tiny_lm(), plain_sae()
    seen = {(e, p): feature_effects(lm, sae, alpha=3, edit=e, positions=p)["kl"].to_numpy()
            for e in ("add", "scale", "replace") for p in ("all", "last")}  # fmt: skip
    values = list(seen.values())
    for i, one in enumerate(values):
        for other in values[i + 1 :]:
            assert np.abs(one - other).max() > 1e-3


def test_a_silent_feature_scaled_does_nothing_and_no_strength_does_nothing() -> None:
    lm, sae = tiny_lm(), plain_sae()
    codes = sae.encode(lm.run_to(torch.tensor(lm.tokenize([PREFIX])), [SITE])[SITE][0, -1])
    silent = (codes == 0).nonzero().flatten().tolist()
    firing = (codes > 0).nonzero().flatten().tolist()
    assert silent and firing
    scaled = feature_effects(lm, sae, edit="scale", positions="last")["kl"].to_numpy()
    assert np.abs(scaled[silent]).max() < 1e-6 < np.abs(scaled[firing]).max()
    still = feature_effects(lm, sae, alpha=0, criteria=["kl", "delta_confidence"])
    assert np.abs(still.select("kl", "delta_confidence").to_numpy()).max() < 1e-5


def test_the_batch_and_the_subset_change_nothing() -> None:
    lm, sae = tiny_lm(), plain_sae()
    whole = feature_effects(lm, sae)
    for size in (1, 7, 64):
        other = feature_effects(lm, sae, batch_size=size)
        np.testing.assert_allclose(other.select(usual()), whole.select(usual()), atol=1e-5)
        assert other["top_tokens"].to_list() == whole["top_tokens"].to_list()
    some = feature_effects(lm, sae, features=[9, 3])
    assert some["feature"].to_list() == [9, 3]
    np.testing.assert_allclose(some.select(usual()), whole.select(usual()).to_numpy()[[9, 3]], atol=1e-5)


def test_lens_columns_and_top_tokens_are_the_lens() -> None:
    """The moments are SciPy's of head(norm(v_f)), for every feature, whatever the slices."""
    lm, sae = tiny_lm(), plain_sae()
    whole = feature_effects(lm, sae, criteria=that_read("lens"))
    logits = lm.unembed(sae.W_dec).double().numpy()
    for name, moments in (("spread", np.std), ("skew", stats.skew), ("kurtosis", stats.kurtosis)):
        np.testing.assert_allclose(whole[f"lens_{name}"], moments(logits, axis=1), atol=1e-4)
    found = feature_effects(lm, sae, features=[5])
    best = torch.topk(lm.unembed(sae.W_dec[5]), 20).indices.tolist()
    assert found["top_tokens"][0].to_list() == lm.token_strings(best)


def test_bad_input_gets_a_sentence() -> None:
    lm, sae = tiny_lm(), plain_sae()
    for arguments, match in [
        ({"site": "resid_post.9"}, "beyond"),
        ({"edit": "ad"}, "add"),
        ({"positions": "first"}, "positions"),
        ({"criteria": ["kll"]}, "kl"),
        ({"criteria": ["concept_lift"]}, "concept"),
        ({"alpha": float("nan")}, "finite"),
        ({"k": 0}, "k counts tokens"),
        ({"lens_tokens": 10**6}, "lens_tokens counts tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"prefix": []}, "at least one prefix"),
        ({"features": [3, F]}, f"Feature {F} does not exist"),
    ]:
        with pytest.raises(UserError, match=match):
            feature_effects(lm, sae, **arguments)
    with pytest.raises(UserError, match="width 48"):
        feature_effects(lm, plain_sae(48))
    with pytest.raises(UserError, match="site"):
        feature_effects(lm, plain_sae(site=None))


def test_the_stage_writes_its_table(tmp_path: Path) -> None:
    lm, sae = tiny_lm(), plain_sae()
    (path,) = run(SelectionConfig(positions="last"), lm, sae, tmp_path, alive=[i > 2 for i in range(F)])
    table = read_table(
        path, ["feature", "alive", "delta_confidence", "output_score", "kl", "entropy_change", "top_tokens"]
    )
    assert table.height == F and table["alive"].sum() == F - 3
    assert table["top_tokens"].list.len().unique().to_list() == [10]
    first = path.read_bytes()
    run(SelectionConfig(positions="last"), lm, sae, tmp_path, alive=[i > 2 for i in range(F)])
    assert path.read_bytes() == first, "same config, same bytes"
    run(SelectionConfig(positions="last"), lm, sae, tmp_path)
    assert read_table(path)["alive"].null_count() == F
    assert read_table(path).schema["alive"] == pl.Boolean
    with pytest.raises(UserError, match="3 features"):
        run(SelectionConfig(), lm, sae, tmp_path, alive=[True] * 3)


def test_effects_of_the_tested_features_alone(tmp_path: Path) -> None:
    lm, sae = tiny_lm(), plain_sae()
    alive = [i > 2 for i in range(F)]
    whole = read_table(run(SelectionConfig(positions="last"), lm, sae, tmp_path / "all", alive=alive)[0])
    some = SelectionConfig(positions="last", features="tested")
    part = read_table(run(some, lm, sae, tmp_path / "tested", alive=alive, tested=[7, 1, 4])[0])
    same = whole.filter(pl.col("feature").is_in([1, 4, 7]))
    assert part["feature"].to_list() == [1, 4, 7]
    assert part.select("alive", "random", "top_tokens").equals(same.select("alive", "random", "top_tokens"))
    for name in some.criteria:
        assert part[name].to_numpy() == pytest.approx(same[name].to_numpy(), rel=1e-4, abs=1e-6)
    with pytest.raises(UserError, match="was tested"):
        run(some, lm, sae, tmp_path, alive=alive)
