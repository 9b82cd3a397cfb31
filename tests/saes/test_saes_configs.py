"""Configs refuse what cannot be, and modules what does not fit."""

import pytest
import torch

from saelab.core.errors import UserError
from saelab.saes.base import SaeConfig, bound_for
from saelab.saes.catalogue import ARCHITECTURES, MODULES, training_config


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_config_survives_yaml_and_names_its_work(name: str) -> None:
    cfg = training_config(name, level=4, d_in=8, d_sae=32)
    again = type(cfg).parse(__import__("yaml").safe_load(cfg.to_yaml()))
    assert again == cfg
    digests = {training_config(n, level=4, d_in=8, d_sae=32).digest() for n in ARCHITECTURES}
    assert len(digests) == len(ARCHITECTURES)


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"Did you mean topk"):
        training_config("topkk", level=4, d_in=8, d_sae=32)
    with pytest.raises(UserError, match="k = 99 is more than d_sae = 32"):
        training_config("batchtopk", level=99, d_in=8, d_sae=32)
    with pytest.raises(UserError, match="unknown key 'learning_rate'"):
        training_config("relu", level=4, d_in=8, d_sae=32, learning_rate=1.0)
    with pytest.raises(UserError, match="must rise"):
        training_config("matryoshka", level=4, d_in=8, d_sae=32, widths=(16, 8))
    with pytest.raises(UserError, match="k_start = 3 is not between k = 4 and d_sae = 32"):
        training_config("topk", level=4, d_in=8, d_sae=32, k_start=3)
    with pytest.raises(UserError, match="must lie between 1 and d_sae = 32"):
        training_config("hierarchicaltopk", level=4, d_in=8, d_sae=32, ks=(4, 64))
    with pytest.raises(UserError, match="no other length"):
        training_config("aligned", level=4, d_in=8, d_sae=32, fitted_start=True)
    assert ARCHITECTURES["hierarchicaltopk"](d_in=8, d_sae=99, k=80).ks == (5, 10, 20, 40, 80)  # pyright: ignore
    assert ARCHITECTURES["hierarchicaltopk"](d_in=8, d_sae=99, k=8, ks=(32, 16)).ks == (8, 16, 32)  # pyright: ignore
    assert ARCHITECTURES["matryoshka"](d_in=8, d_sae=32, k=2).widths == (2, 4, 8, 16, 32)  # pyright: ignore


def test_misshapen_weights_and_inputs_are_named() -> None:
    cfg = SaeConfig(architecture="relu", d_in=4, d_sae=6)
    weights = {"W_enc": torch.ones(4, 6), "W_dec": torch.ones(6, 4), "b_enc": torch.zeros(6), "b_dec": torch.zeros(4)}
    sae = MODULES["standard"](cfg, weights)
    with pytest.raises(UserError, match="width 4, but got width 5"):
        sae.encode(torch.zeros(2, 5))
    with pytest.raises(UserError, match=r"W_enc has shape \(6, 4\)"):
        MODULES["standard"](cfg, weights | {"W_enc": torch.ones(6, 4)})


def test_encoding_is_done_in_float32() -> None:
    cfg = SaeConfig(architecture="relu", d_in=4, d_sae=6)
    g = torch.Generator().manual_seed(0)
    weights = {"W_enc": torch.randn(4, 6, generator=g), "W_dec": torch.randn(6, 4, generator=g)}
    sae = MODULES["standard"](cfg, weights | {"b_enc": torch.zeros(6), "b_dec": torch.zeros(4)})
    x = torch.randn(3, 4, generator=g).bfloat16()
    assert sae.encode(x).dtype == torch.float32
    assert torch.equal(sae.encode(x), sae.encode(x.float()))


def test_the_bound_lets_the_asked_number_pass() -> None:
    pre = torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    bound = bound_for(pre, 5.0)
    assert int((pre > bound).sum()) == 5 * 100 - 1  # the bound is itself the last entry
    assert bound_for(pre, 45.0) == 0.0
