"""A tiny study at sites inside a block, SAEs and transcoders, to its page; what a site cannot do is refused."""

from pathlib import Path
from typing import Any

import pytest

from saelab.core.errors import UserError
from saelab.saes.formats import load_sae, load_transcoder
from saelab.store.layout import RunFolder
from saelab.study.checks import check
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study

TRANSCODER = "topk.l0_8.from_mlp_in.mlp_out.1"


@pytest.fixture
def data(study_data: dict[str, Any]) -> dict[str, Any]:
    """The tiny study with a TopK SAE at each kind of site and a transcoder of an MLP, which is steered with."""
    grid = {"architectures": ["topk"], "levels": [8], "d_sae": 32, "steer": False}
    kinds = ("z", "attn_out", "resid_mid", "mlp_in", "resid_pre")
    study_data["models"][0] |= {
        "grids": [
            grid | {"sites": [f"{kind}.1" for kind in kinds]},
            grid | {"sites": ["mlp_in.1"], "target": "mlp_out", "steer": True},
        ],
        "paths": [],
    }
    study_data["training"]["steps"] = 20
    study_data["steering"] |= {"ratings": False}
    study_data["interp"]["n_scored"] = 24
    return study_data


def test_every_site_and_a_transcoder_to_the_page(data: dict[str, Any], tmp_path: Path) -> None:
    study = StudyConfig.parse(data)
    page = run_study(study, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert TRANSCODER in page.read_text()
    for spec in saes_of(study):
        found = run.interp(spec.name).fidelity.read()
        assert 0 < found["fvu"] < 1.5 and abs(found["l0"] - 8) < 1, spec.name
        assert found["ce_zero_ablated"] != found["ce_clean"] and found["random_dictionary"]["fvu"] > 0
    kept = load_transcoder(run.sae(TRANSCODER))
    assert (kept.cfg.site, kept.cfg.site_out) == ("mlp_in.1", "mlp_out.1")
    assert load_sae(run.sae("topk.l0_8.z.1")).cfg.site == "z.1"
    effects = run.selection(TRANSCODER).effects.read()
    assert effects.height == 32 and effects["delta_confidence"].null_count() == 0
    assert run.steering(TRANSCODER).outcomes.path.is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sites": ["mlp_in.1"], "steer": True}, r"grids\.0\.steer: features of mlp_in\.1 are not selected"),
        ({"sites": ["mlp_out.1"], "target": "mlp_in"}, r"target.*mlp_in is not made after mlp_out\.1"),
        ({"sites": ["mlp_out.1"], "target": "mlp_out"}, r"target.*not made after"),
        (
            {"sites": ["mlp_in.1"], "target": "mlp_out", "architectures": ["topk", "aligned"]},
            r"grids\.0\.target: a transcoder's .* \(of aligned\)",
        ),
        (
            {"options": {"k_start": 6}},
            r"grids\.0\.options: k_start = 6 is not between k = 8 and .* \(of topk\)",
        ),
        ({"sites": ["z.9"]}, r"z\.9 is beyond the last block"),
    ],
)
def test_what_a_site_cannot_do_is_refused_before_anything_runs(
    data: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    data["models"][0]["grids"] = [data["models"][0]["grids"][0] | change]
    with pytest.raises(UserError, match=words):
        check(StudyConfig.parse(data))


def test_a_suite_is_refused_at_sites_inside_a_block(data: dict[str, Any]) -> None:
    data["suite"] = {"preset": "tiny", "only": ["core"]}
    with pytest.raises(UserError, match=r"z\.1 is no site of SAEBench's(.|\n)*are of SAEs, not of transcoders"):
        check(StudyConfig.parse(data))
