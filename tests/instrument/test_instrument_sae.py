"""Steering with an SAE's features: SAEs are units of the statistics, so their texts share no random draw."""

from pathlib import Path

import polars as pl
import torch
from planted_steering import SITE, SMALL, World

from saelab.instrument import sae as stage
from saelab.instrument.config import InstrumentConfig
from saelab.instrument.site import Place
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.steering.arms import Arm
from saelab.store.folders import InstrumentFolder, SteeringFolder

SHARED = {name: value for name, value in SMALL.model_dump().items() if name in InstrumentConfig.model_fields}


def test_two_saes_draw_their_texts_apart(world: World, tmp_path: Path) -> None:
    config = InstrumentConfig.parse(SHARED)
    place = Place(config, world.lm, world.text, world.embed, world.desk, world.probe)
    unsteered = world.desk.write("unsteered", world.desk.jobs([-1], 0.0, 0.0, range(44)), world.classes.directions)
    gate = InstrumentFolder(tmp_path / "gate")
    gate.step("unsteered").write(unsteered)
    gate.gate.write({"chosen": {"dose": 1.2, "strength": 1e-6, "share": 0.0, "state": "ok"}})
    n, d = world.config.width, world.lm.d_model
    directions = torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(1)), dim=1)
    mean = world.text.rows.mean(0)

    def written(name: str, bias: float) -> pl.DataFrame:
        """Texts steered by next to nothing, so that what tells them apart is the draw."""
        weights = {"W_enc": directions.T, "W_dec": directions, "b_enc": torch.full((n,), bias), "b_dec": mean}
        sae = TopKSae(SaeConfig(architecture="topk", d_in=d, d_sae=n, k=8, site=SITE, lm="tiny"), weights)
        able = pl.DataFrame({"feature": range(n)})
        folder = SteeringFolder(tmp_path / name)
        stage.run(
            place,
            gate,
            sae,
            [Arm(random=6)],
            able=able,
            effects=pl.DataFrame({"feature": range(n)}),
            folder=folder.root,
            seed=0,
        )
        return folder.readings.read().filter(pl.col("feature") >= 0)

    one, again, other = written("one", 0.0), written("again", 0.0), written("other", 1e-6)
    assert one.height >= 6 and one["feature"].to_list() == other["feature"].to_list()
    assert one["text"].to_list() == again["text"].to_list(), "the same SAE writes the same texts anywhere"
    assert sum(a == b for a, b in zip(one["text"], other["text"], strict=True)) < one.height / 4
