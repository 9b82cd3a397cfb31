"""SAEBench's object contract, row by row; SAELens objects where that library is installed."""

import json

import pytest
import torch
from sample_saes import CASES, D, inputs, random_sae

from saelab.adapters import to_saebench, to_saelens
from saelab.core.errors import MissingDependency, UserError


@pytest.mark.parametrize("case", CASES)
def test_saebench_contract(case: str) -> None:
    sae, x = random_sae(case), inputs()
    bench = to_saebench(sae)
    F = sae.cfg.d_sae  # with what is carried
    assert (bench.W_enc.shape, bench.W_dec.shape) == ((D, F), (F, D))
    assert bench.W_dec.data is not None
    codes = bench.encode(x.view(3, 4, D))
    assert torch.allclose(codes.reshape(-1, F), sae.encode(x), atol=1e-6)
    codes[..., 0] = 0  # evaluations write into the codes
    assert torch.equal(bench.encode(x), sae.encode(x))
    assert torch.equal(bench(x), bench.decode(bench.encode(x)))
    assert torch.allclose(bench.decode(torch.zeros(1, F))[0], bench.b_dec)
    alone = torch.cat([bench.encode(row[None]) for row in x])
    assert torch.allclose(alone, bench.encode(x), atol=1e-5)
    free = torch.rand(2, F, requires_grad=True)
    bench.decode(free).sum().backward()
    assert free.grad is not None
    assert bench.to(dtype=torch.bfloat16) is bench
    assert bench.dtype == torch.bfloat16 == bench.encode(x).dtype
    assert json.loads(json.dumps(bench.cfg.to_dict()))["dtype"] == "bfloat16"
    assert (bench.cfg.hook_name, bench.cfg.hook_layer) == ("blocks.3.hook_resid_post", 3)


def test_saebench_asks_for_what_it_needs() -> None:
    sae = random_sae("topk")
    homeless = type(sae)(sae.cfg.model_copy(update={"site": None}), sae.weights())
    with pytest.raises(UserError, match="site"):
        to_saebench(homeless)


def test_saelens_object() -> None:
    sae = random_sae("jumprelu")
    try:
        other = to_saelens(sae)
    except MissingDependency as error:
        assert "sae-lens" in error.message
        return
    assert torch.allclose(other.encode(inputs()), sae.encode(inputs()), atol=1e-5)
