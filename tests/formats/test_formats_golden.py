"""SAEs written by the libraries themselves (tools/golden_saes.py) give those libraries' own codes to 1e-5."""

from pathlib import Path

import pytest
import torch

from saelab.saes.formats import format_of, source_of
from saelab.saes.formats.unpickle import _flattened
from saelab.store.tensors import read_tensors

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.parent for p in GOLDEN.glob("*/*/io.safetensors"))


def test_there_are_golden_files() -> None:
    """Without them nothing below is tested."""
    assert {p.parent.name for p in CASES} >= {"saelens", "dictionary_learning", "sparsify"}
    assert sum(f.stat().st_size for p in CASES for f in p.rglob("*")) < 2_000_000


@pytest.mark.parametrize("folder", CASES, ids=[f"{p.parent.name}/{p.name}" for p in CASES])
def test_codes_and_reconstruction_are_the_librarys_own(folder: Path) -> None:
    expected = read_tensors(folder / "io.safetensors")
    source = source_of(folder)
    kind = format_of(source)
    assert kind.name == folder.parent.name
    if kind.pickle is None:
        sae = kind.read(source)
    else:  # our own golden file: read here, to save a process for each
        leaves = _flattened(torch.load(folder / kind.pickle(source), weights_only=True), "")
        tensors = {k: v for k, v in leaves.items() if isinstance(v, torch.Tensor)}
        sae = kind.read(source, tensors, {k: v for k, v in leaves.items() if k not in tensors})
    codes = sae.encode(expected["x"])
    assert torch.allclose(codes, expected["codes"], atol=1e-5)
    assert torch.allclose(sae.decode(codes), expected["rebuilt"], atol=1e-5)
    if folder.name != "interrupted":
        assert sae.cfg.site == "resid_post.3"
