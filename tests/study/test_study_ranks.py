"""`torchrun -m saelab train`: two processes train the SAEs of a study that one process trains."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from saelab.saes.formats import load_sae
from saelab.saes.ranks import ALONE
from saelab.store.layout import RunFolder
from saelab.study.fresh import TRAINED
from saelab.study.run import follow, run
from saelab.study.spec import StudyConfig, saes_of


@pytest.mark.sweep
def test_two_processes_train_the_study_of_one(study_data: dict[str, Any], tmp_path: Path) -> None:
    """Up to the order of sums; the control, of another seed, is far off."""
    study_data["training"]["precision"] = "float32"  # in bfloat16 the order of sums changes who is chosen
    (file := tmp_path / "study.yaml").write_text(yaml.safe_dump(study_data))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "saelab"]
    for _ in range(2):  # the second call finds all done
        found = subprocess.run(
            [*start, "train", str(file), "--out", str(tmp_path / "two")],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr[-3000:]
        assert found.stdout.count("Scored, steered and compared") == 1, "the first rank alone speaks"
    study = StudyConfig.parse(study_data)
    run(study, tmp_path / "one", stages=TRAINED)
    run(StudyConfig.parse(study_data | {"seed": 1}), tmp_path / "other", stages=TRAINED)
    for spec in saes_of(study):
        two, one, other = (load_sae(RunFolder(tmp_path / n).saes / spec.name).W_dec for n in ("two", "one", "other"))
        assert (two - one).norm() <= 1e-3 * one.norm(), spec.name
        assert (two - other).norm() > 1e-1 * one.norm()


def test_one_process_has_nobody_to_follow(study_data: dict[str, Any], tmp_path: Path) -> None:
    follow(StudyConfig.parse(study_data), tmp_path / "none", ALONE)
    assert not (tmp_path / "none").exists()
