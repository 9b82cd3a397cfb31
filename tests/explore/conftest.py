"""One world and one server for all tests of the explorer; the material is there before the server starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from opened_world import NAMES, Server, World, make_world, serving

from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae
from saelab.store.layout import RunFolder
from saelab.study.spec import StudyConfig, saes_of
from some_material import F
from tiny_world import world as study_of

SITES = ("resid_post.0", "resid_post.1")  # of the run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("explored"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAELAB_CACHE", str(made.cache))
        explored = made.opened()
        for name in NAMES:
            explored.material(name)
    return made


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[Server]:
    with serving(world) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of SAEs at two sites and of two seeds, of which some stages are done: tables by hand."""
    data = study_of(tmp_path / "world")
    grid = {"sites": list(SITES), "architectures": ["topk"], "levels": [4], "d_sae": F, "seeds": [0, 1]}
    data["models"][0]["grids"] = [grid]
    study, run = StudyConfig.parse(data), RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.study.write_text(study.to_yaml())
    eye = torch.eye(F, 32) + 0.1
    for spec in saes_of(study):
        weights = {"W_enc": eye.T, "W_dec": eye, "b_enc": torch.zeros(F), "b_dec": torch.zeros(32)}
        cfg = SaeConfig(architecture="topk", d_in=32, d_sae=F, k=4, site=spec.site, lm=spec.model.lm)
        save_sae(TopKSae(cfg, weights), run.sae(spec.name))
    return run
