"""An SAE trained on an accelerator: everything a step makes lies there, and the numbers are those of the CPU.

The accelerator is pretended (pretended.py); what a real one's kernels compute is not tested here.
"""

import pytest
import torch
from planted import batches

from pretended import PLACE, Pretended, There
from saelab.core.errors import UserError
from saelab.core.hardware import device_of
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.training.inputs import Scaling, open_inputs, scaling_of
from saelab.training.step import Trainee

STEPS, ROWS = 12, 32


def trainee(architecture: str, scaling: Scaling, dtype: torch.dtype = torch.float32) -> Trainee:
    """An SAE of which many latents are dead, so that AuxK takes part."""
    config = training_config(architecture, level=4, d_in=32, d_sae=96, dead_tokens=33, lr=3e-3)
    return Trainee(config, scaling(batches(1, ROWS)[0]), steps=STEPS, seed=0, dtype=dtype)


# Not TopK in bfloat16: its pre-activations are often equal, and which of them are kept is each device's choice.
@pytest.mark.parametrize(
    ("architecture", "dtype"), [*((a, torch.float32) for a in sorted(ARCHITECTURES)), ("relu", torch.bfloat16)]
)
def test_steps_elsewhere_are_steps_here(architecture: str, dtype: torch.dtype) -> None:
    data = batches(STEPS, ROWS)
    scaling = scaling_of(data)
    here = trainee(architecture, scaling, dtype)
    expected = [here.step(scaling(x)) for x in data]
    with Pretended():
        far = scaling.to(PLACE)
        there = trainee(architecture, far, dtype)
        found = [there.step(far(x)) for x in data[: STEPS // 2]]
        tensors, numbers = there.state()
        assert all(isinstance(t, There) for name, t in tensors.items() if t.dim())
        # From a checkpoint, which is read to the CPU, it goes on where the state says.
        there = trainee(architecture, far, dtype)
        there.load({name: t.cpu() for name, t in tensors.items()}, numbers)
        found += [there.step(far(x)) for x in data[STEPS // 2 :]]
        assert all(isinstance(t, There) for t in there.weights.trained().values())
        sae = there.finish(far)
    assert max(f.dead for f in expected) > 0
    for name in ("loss", "fvu", "l0", "dead", "coefficient"):
        ours, theirs = ([getattr(f, name) for f in figures] for figures in (found, expected))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6), name
    for name, tensor in here.finish(scaling).weights().items():
        assert not isinstance(sae.weights()[name], There)
        torch.testing.assert_close(sae.weights()[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_pretended_device_minds_what_a_real_one_minds() -> None:
    """The control: tensors of two devices do not mix, and NumPy cannot read."""
    with Pretended():
        x = torch.ones(3, device=PLACE)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(UserError, match=repr(name)):
        device_of(name)
    with pytest.raises(UserError):
        open_inputs(batches(2), steps=2, seed=0, device=name)
