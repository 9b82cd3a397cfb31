"""`joint_levels` of a grid: one training of a HierarchicalTopK gives its SAE at every level."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from saelab.core.errors import UserError
from saelab.saes.formats import load_sae, save_native
from saelab.store.layout import RunFolder
from saelab.study.fresh import TRAINED, Wanted, further, made
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study

SITE, LEVELS = "resid_post.1", (4, 8, 16)


def joint_study(data: dict[str, Any], **change: Any) -> StudyConfig:
    """HierarchicalTopK at three levels from one training, and a TopK beside it."""
    grid = {"sites": [SITE], "architectures": ["hierarchicaltopk", "topk"], "levels": LEVELS, "d_sae": 48}
    grid |= {"joint_levels": True, "steer": False} | change
    data["models"][0] |= {"grids": [grid], "paths": []}
    return StudyConfig.parse(data)


def of(study: StudyConfig, architecture: str) -> list[str]:
    return [s.name for s in saes_of(study) if s.architecture == architecture]


def test_the_levels_are_one_training_read_at_each(study_data: dict[str, Any], tmp_path: Path) -> None:
    study = joint_study(study_data)
    page = run_study(study, tmp_path / "run").read_text()
    folder = RunFolder(tmp_path / "run")
    saes = {name: load_sae(folder.sae(name)) for name in (*of(study, "hierarchicaltopk"), *of(study, "topk"))}
    joint, apart = ([saes[name] for name in of(study, a)] for a in ("hierarchicaltopk", "topk"))
    assert [sae.cfg.k for sae in joint] == [sae.cfg.k for sae in apart] == list(LEVELS)
    for sae in joint[:-1]:
        assert all(torch.equal(tensor, joint[-1].weights()[name]) for name, tensor in sae.weights().items())
        assert sae.cfg.metadata["read_from"] == of(study, "hierarchicaltopk")[-1]
        assert sae.cfg.metadata["training"]["k"] == sae.cfg.k
        assert sae.cfg.metadata["training"]["ks"] == list(LEVELS)
    assert "read_from" not in joint[-1].cfg.metadata
    assert not torch.equal(apart[0].W_enc, apart[-1].W_enc), "control: TopKs have a training each"
    fvu = [folder.interp(name).fidelity.read()["fvu"] for name in of(study, "hierarchicaltopk")]
    assert fvu == sorted(fvu, reverse=True) and all(name in page for name in saes)


def test_the_plan_counts_one_training(study_data: dict[str, Any]) -> None:
    """The levels are said of each SAE, and weigh on its key. Control: without the option keys are as before it."""
    study, plain = joint_study(study_data), joint_study(study_data, joint_levels=False)
    (cell,), (other,) = ([c for c in cells_of(s) if c.stage == "train"] for s in (study, plain))
    assert [said.get("ks") for said in cell.settings["saes"].values()] == [LEVELS] * 3 + [None] * 3
    assert not any("ks" in said for said in other.settings["saes"].values())
    assert cell.estimate == pytest.approx(other.estimate * 4 / 6) and cell.key != other.key
    assert [s.name for s in saes_of(study)] == [s.name for s in saes_of(plain)]
    assert "joint_levels" not in plain.to_yaml()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["topk"]}, r"grids\.0\.joint_levels: no architecture of the grid"),
        ({"sites": ["mlp_in.1"], "target": "mlp_out"}, r"grids\.0\.joint_levels: a transcoder"),
    ],
)
def test_what_has_no_joint_levels_is_refused(study_data: dict[str, Any], change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        joint_study(study_data, **change)


def test_training_further_keeps_the_levels(study_data: dict[str, Any], tmp_path: Path) -> None:
    """Of the SAE of each level. Control: of an SAE that says nothing of its training they are those without a word."""
    study = joint_study(study_data)
    run(study, tmp_path / "run", stages=TRAINED)
    for name, level in zip(of(study, "hierarchicaltopk"), LEVELS, strict=True):
        place = RunFolder(tmp_path / "run").sae(name)
        text, again = made(further(f"path:{place}", Wanted("", [], [], [], 0, tokens=10_000)))
        (sae,) = saes_of(again)
        assert (sae.architecture, sae.level) == ("hierarchicaltopk", level) and "ks" in text
        assert sae.training_config(d_in=32).model_dump()["ks"] == LEVELS
        whole = load_sae(place)
        whole.cfg = whole.cfg.model_copy(update={"metadata": {}})
        save_native(whole, bare := tmp_path / "bare" / name)
        asked = Wanted("smollm2-135m", [SITE], ["hierarchicaltopk"], [], 0, tokens=10_000)
        assert "ks" not in made(further(f"path:{bare}", asked))[0]


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({"ks": 2}, {"joint_levels": False}, r"options\.ks: Input should be a list"),
        ({"ks": "many"}, {"joint_levels": False}, r"options\.ks: Input should be a list"),
        ({"ks": [1, 200]}, {"joint_levels": False}, r"between 1 and d_sae = 48"),
        ({"ks": [1, 2]}, {}, r"options\.ks: is said by levels"),
        (
            {"widths": 8},
            {"joint_levels": False, "architectures": ["matryoshka"]},
            r"options\.widths: Input should be a l",
        ),
    ],
)
def test_lists_among_the_options(
    study_data: dict[str, Any], options: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        joint_study(study_data, **{"architectures": ["hierarchicaltopk"], "options": options} | change)


def test_lists_and_null_reach_the_training_config(study_data: dict[str, Any]) -> None:
    asked = {"joint_levels": False, "levels": (4,), "options": {"clip": None, "widths": [8, 16]}}
    study = joint_study(study_data, architectures=["matryoshka"], **asked)
    (sae,) = saes_of(StudyConfig.parse(yaml.safe_load(study.to_yaml())))
    found = sae.training_config(d_in=32).model_dump()
    assert found["widths"] == (8, 16, 48) and found["clip"] is None
    (hierarchical,) = saes_of(joint_study(study_data, architectures=["hierarchicaltopk"], joint_levels=False,
                                          levels=(4,), options={"ks": [1, 2]}))  # fmt: skip
    assert hierarchical.training_config(d_in=32).model_dump()["ks"] == (1, 2, 4)
