"""SAEs written by the libraries themselves (tools/golden_saes.py) give those libraries' own codes to 1e-5."""

from pathlib import Path

import pytest
import torch
from sample_saes import own_codes

from saelab.saes.base import Sae
from saelab.saes.formats import format_of, source_of
from saelab.saes.formats.unpickle import _flattened
from saelab.saes.transcoder import Transcoder
from saelab.store.tensors import read_tensors

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.parent for p in GOLDEN.rglob("io.safetensors"))


def test_there_are_golden_files() -> None:
    """Without them nothing below is tested."""
    formats = {p.relative_to(GOLDEN).parts[0] for p in CASES}
    assert formats >= {"saelens", "dictionary_learning", "sparsify", "openai", "llama_scope_2"}
    assert all(sum(f.stat().st_size for f in p.rglob("*")) < 200_000 for p in CASES)
    assert len(CASES) >= 75


@pytest.mark.parametrize("folder", CASES, ids=[str(p.relative_to(GOLDEN)) for p in CASES])
def test_codes_and_reconstruction_are_the_librarys_own(folder: Path) -> None:
    expected = read_tensors(folder / "io.safetensors")
    single = next((p for p in folder.glob("*.pt") if p.name != "ae.pt"), folder)  # Qwen-Scope and OpenAI are files
    source = source_of(single)
    kind = format_of(source)
    assert kind.name == folder.relative_to(GOLDEN).parts[0]
    if kind.pickle is None:
        sae = kind.read(source)
    else:  # our own golden file: read here, to save a process for each
        leaves = _flattened(torch.load(folder / kind.pickle(source), weights_only=True), "")
        tensors = {k: v for k, v in leaves.items() if isinstance(v, torch.Tensor)}
        sae = kind.read(source, tensors, {k: v for k, v in leaves.items() if k not in tensors})
    codes = sae.encode(expected["x"])
    assert (codes != 0).any(), "an SAE without codes would prove nothing"
    if isinstance(sae, Transcoder):
        place = str(folder.relative_to(GOLDEN))
        assert "transcoder" in place or "skip" in place, "an SAE was taken for a transcoder"
        assert torch.allclose(codes, expected["codes"], atol=1e-5)
        assert torch.allclose(sae(expected["x"]), expected["rebuilt"], atol=1e-5)
        assert sae.cfg.site_out in ("mlp_out.3", "model.layers.3.post_feedforward_layernorm.output")
        return
    assert isinstance(sae, Sae)
    rebuilt = sae.decode(codes)
    if (n := sae.cfg.metadata.get("signed_latents")) is not None:
        codes = codes[:, :n] - codes[:, n:]
    codes = own_codes(sae, codes)
    assert torch.allclose(codes, expected["codes"], atol=1e-5)
    assert torch.allclose(rebuilt, expected["rebuilt"], atol=1e-5)
    if folder.name != "interrupted":
        assert sae.cfg.site == (None if "embedding" in folder.parts else "resid_post.3")
