"""What is kept of every feature is what its codes say: by brute force, whatever the blocks, and never half read."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from saelab.core.bytetext import byte_text
from saelab.core.errors import ArtefactError, UserError
from saelab.explore import made
from saelab.explore import material as reading
from saelab.explore.made import make_material
from saelab.explore.material import SaeMaterial
from saelab.interp.features import beside, profile
from saelab.interp.features import material as writing
from saelab.interp.features.material import MaterialSource, write_material
from saelab.interp.features.spread import RADIUS
from saelab.interp.features.windows import WindowConfig, WindowFinder
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.store.folders import MaterialFolder
from saelab.text.corpora import Document
from saelab.text.pack import pack_for
from some_material import T, codes_of, source_of


def made_of(source: MaterialSource, folder: Path) -> SaeMaterial:
    write_material(source, MaterialFolder(folder))
    return SaeMaterial(folder)


def everything(material: SaeMaterial) -> list:
    return [material.feature(f) for f in range(material.n_features)]


def test_contexts_lie_in_their_quantile_and_show_what_was_read(tmp_path: Path) -> None:
    source, dense = source_of()
    material = made_of(source, tmp_path)
    edges = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    bounds = {f"{100 * low:.0f}-{100 * high:.0f} %": (low, high) for high, low in pairwise(edges)}
    strings = [source.strings[i] for i in source.passages.tokens.reshape(-1)]
    seen, wrong = set(), 0
    for f in material.live.tolist():
        values = dense[:, f][dense[:, f] > 0]
        row = material._read_row(f)
        places = [np.arange(a, a + n) for a, n in zip(row["starts"], row["lengths"], strict=True)]
        for context, window in zip(material.feature(f).contexts, places, strict=True):
            assert list(context.tokens) == [strings[p] for p in window]
            assert np.array_equal(context.activations, dense[window, f].astype(np.float32))
            peak = context.activations[context.peak]
            assert peak == max(context.activations) > 0
            seen.add(context.quantile)
            if context.quantile != "top":
                low, high = np.quantile(values, bounds[context.quantile])
                assert low - 1e-6 <= peak <= high + 1e-6
                wrong += not (np.quantile(values, 0.8) <= peak)
        assert max(c.activations[c.peak] for c in material.feature(f).contexts) == np.float32(values.max())
        peaks = sorted(p + a for p, a in zip(row["peaks"], row["starts"], strict=True))
        assert all(b - a > 2 * RADIUS for a, b in pairwise(peaks))
    assert seen == {"top", *bounds}
    assert wrong > 0, "control: the bounds of another fifth do not hold"


def test_histograms_count_every_value(tmp_path: Path) -> None:
    source, dense = source_of()
    for f, one in enumerate(everything(made_of(source, tmp_path))):
        values = dense[:, f][dense[:, f] > 0]
        assert sum(one.histogram.counts) == len(values) == round(one.density * len(source.read))
        if len(values):
            assert one.max_activation == pytest.approx(values.max())
            expected = np.histogram(values, bins=(*one.histogram.edges[:-1], one.max_activation + 1e-6))[0]
            assert np.abs(expected - one.histogram.counts).sum() <= 2, "values on an edge"
            assert 0 < one.histogram.threshold < one.max_activation
        else:
            assert one.state == "dead" and one.contexts == () and one.coactive == () and one.density == 0


def test_neighbours_and_coactive_features_are_those_of_brute_force(tmp_path: Path) -> None:
    source, dense = source_of()
    # Two features that fire together, and point the same way.
    dense[:, 7] = dense[:, 3] * 2
    source.decoder[7] = source.decoder[3] * 3
    source = replace(source, codes=codes_of(dense[source.read], source.read))
    unit = torch.nn.functional.normalize(source.decoder, dim=1).numpy()
    active = dense[source.read] > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = np.corrcoef(active.T.astype(float))
    for f, one in enumerate(everything(made_of(source, tmp_path))):
        cosines = unit @ unit[f]
        cosines[f] = -2
        assert all(c == pytest.approx(cosines[n], abs=1e-5) for n, c in one.neighbours)
        assert [c for _, c in one.neighbours] == pytest.approx(np.sort(cosines)[::-1][:8].tolist(), abs=1e-5)
        for other, value, both in one.coactive:
            assert both == int((active[:, f] & active[:, other]).sum()) >= beside.LEAST
            assert value == pytest.approx(phi[f, other], abs=1e-5)
        others = np.delete(np.where(np.isnan(phi[f]), -1, phi[f]), f)
        if one.coactive:
            assert one.coactive[0][1] == pytest.approx(others.max(), abs=1e-5)
        if f == 3:
            assert one.coactive[0][0] == 7 and one.coactive[0][1] == pytest.approx(1) and one.neighbours[0][0] == 7


def test_a_window_is_clipped_at_the_ends_of_a_context(tmp_path: Path) -> None:
    """Which whole windows never show."""
    source, dense = source_of()
    dense[:] = 0
    dense[[1, 5 * T - 1], 0] = 1.0, 2.0  # the first token after BOS, the last of a context
    dense[20, 1] = 1.0
    source = replace(source, codes=codes_of(dense[source.read], source.read))
    contexts = made_of(source, tmp_path).feature(0).contexts
    assert [(len(c.tokens), c.peak) for c in contexts] == [(RADIUS + 1, RADIUS), (RADIUS + 1, 0)]
    finder = WindowFinder.over(source.passages, WindowConfig())
    assert not finder.is_centre[[1, 5 * T - 1]].any() and finder.is_centre[20], "control"
    bare, dense = source_of(bos=False)
    dense[:] = 0
    dense[0, 0] = 1.0
    bare = replace(bare, codes=codes_of(dense[bare.read], bare.read))
    assert made_of(bare, tmp_path / "bare").feature(0).contexts[0].tokens[0] == bare.strings[bare.passages.tokens[0, 0]]


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = source_of()
    whole = everything(made_of(source, tmp_path / "whole"))
    for module, name, value in (
        (writing, "PART", 7), (reading, "PART", 7), (beside, "DENSE", 50), (beside, "TOGETHER", 40),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    parts = made_of(source, tmp_path / "parts")
    assert len(list(parts.folder.root.glob("features-*"))) == 6
    for a, b in zip(whole, everything(parts), strict=True):
        assert replace(a, neighbours=()) == replace(b, neighbours=())
        assert [n for n, _ in a.neighbours] == [n for n, _ in b.neighbours]
    other = everything(made_of(replace(source, seed=1), tmp_path / "seed"))
    assert [f.contexts for f in other] != [f.contexts for f in whole], "control: the draws depend on the seed"


def test_a_killed_making_is_never_read_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART", 16)
    monkeypatch.setattr(reading, "PART", 16)
    source, _ = source_of()

    def killed(features: range) -> dict[int, str]:
        if features.start == 16:
            raise KeyboardInterrupt
        return dict(source.described(features))

    with pytest.raises(KeyboardInterrupt):
        made_of(replace(source, described=killed), tmp_path)
    with pytest.raises(ArtefactError, match="did not end"):
        SaeMaterial(tmp_path)
    first = MaterialFolder(tmp_path).part(0).path
    before = first.stat().st_mtime_ns
    went_on = everything(made_of(source, tmp_path))
    assert first.stat().st_mtime_ns == before and went_on == everything(made_of(source, tmp_path / "at once"))
    # Another SAE in the same folder: nothing of the former is kept.
    other = made_of(source_of(0.2)[0], tmp_path)
    assert first.stat().st_mtime_ns != before and everything(other) != went_on
    first.write_bytes(first.read_bytes()[:300])
    with pytest.raises(ArtefactError, match="not as it was written"):
        SaeMaterial(tmp_path).feature(3)
    assert everything(made_of(source_of(0.2)[0], tmp_path)) == everything(other), "a damaged part is made again"


@pytest.mark.parametrize(("density", "dead"), [(0.02, 0.9), (0.1, 0.0), (0.6, 0.0)])
def test_a_feature_takes_three_kilobytes_at_most(tmp_path: Path, density: float, dead: float) -> None:
    source, _ = source_of(density, dead=dead)
    material = made_of(source, tmp_path)
    parts = sum(p.stat().st_size for p in tmp_path.glob("features-*"))
    assert parts / material.n_features < 3000
    assert len(material.live) == (source.codes.counts() > 0).sum() == material.manifest["live"]


def test_parts_of_characters_are_shown_whole(tmp_path: Path) -> None:
    source, dense = source_of()
    cat = "猫".encode()
    strings = list(source.strings)
    strings[1:4] = [byte_text(cat[:1]), byte_text(cat[1:2]), byte_text(cat[2:])]
    source.passages.tokens[0, 20:23] = 1, 2, 3
    dense[:] = 0
    dense[21, 0] = 1.0
    source = replace(source, strings=strings, codes=codes_of(dense[source.read], source.read))
    context = made_of(source, tmp_path).feature(0).contexts[0]
    assert context.tokens[context.peak] == "猫" and context.activations[context.peak] == 1.0
    assert len(context.tokens) == len(context.activations)


@pytest.fixture(scope="module")
def tiny() -> tuple:
    """A tiny model, an SAE of it and a text."""
    lm, g = tiny_lm(), torch.Generator().manual_seed(0)
    decoder = torch.randn(24, 32, generator=g)
    weights = {"W_enc": decoder.T / 4, "W_dec": decoder, "b_enc": torch.full((24,), -1.0), "b_dec": torch.zeros(32)}
    sae = ReluSae(SaeConfig(architecture="relu", d_in=32, d_sae=24, site="resid_post.1"), weights)
    words = ["tree", "house", "river", "stone", "green", "quick", "seven", "under"]
    rng = np.random.default_rng(0)
    documents = [Document(str(i), " ".join(rng.choice(words, 80))) for i in range(20)]
    return lm, sae, pack_for(lm, documents, context=64)


def test_it_agrees_with_what_feature_shows(tiny: tuple, tmp_path: Path) -> None:
    lm, sae, packed = tiny
    material = make_material(lm, sae, packed, tmp_path)
    asked = material.live.tolist()[:4]
    for known in profile.profiles(lm, sae, asked, packed):
        own = material.feature(known.feature)
        assert own.density == pytest.approx(known.density) and own.max_activation == pytest.approx(known.max_activation)
        assert own.description == known.description
        assert tuple(t for t, _ in own.promotes) == known.promotes
        assert [by for _, by in own.promotes] == sorted((by for _, by in own.promotes), reverse=True)
    with pytest.raises(UserError, match="There is no feature 24"):
        material.feature(24)


def test_memory_is_bounded_by_reading_less_of_a_dense_dictionary(
    tiny: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, sae, packed = tiny
    whole = make_material(lm, sae, packed, tmp_path / "whole")
    monkeypatch.setattr(made, "DENSE", 24 * 64)
    assert everything(make_material(lm, sae, packed, tmp_path / "blocks")) == everything(whole)
    monkeypatch.setattr(made, "MOST", 600)
    less = make_material(lm, sae, packed, tmp_path / "less")
    assert 64 < less.tokens < whole.tokens / 2 and less.n_features == 24


def test_counts_of_a_dense_dictionary_are_of_evenly_spread_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    source, dense = source_of(0.5, dead=0)
    monkeypatch.setattr(beside, "PRODUCTS", float(((dense > 0).sum(axis=1) ** 2).sum()) / 4)
    found = beside.Coactivation(source.codes, source.read)
    kept = source.read[source.read % 4 == 0]
    assert found.tokens == len(kept) and (found.counts == (dense[kept] > 0).sum(axis=0)).all()
