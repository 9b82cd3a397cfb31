"""Writes SAEs of every architecture in every format that can hold them, for the peers to read back.

python tools/write_for_peers.py OUT       # OUT/FORMAT/CASE/ with io.safetensors: x, our codes, our reconstruction
python tools/read_by_peers.py LOADER OUT       # in the peer's environment
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from saelab.core.errors import UserError
from saelab.saes.base import Sae
from saelab.saes.formats import FORMATS, save_sae
from saelab.saes.transcoder import transcoder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "formats"))
from sample_saes import CASES, K, inputs, own_codes, random_sae


def cases() -> Iterator[tuple[str, Sae]]:
    """Every architecture in both bias conventions; and a ReLU whose decoder rows are not of unit norm."""
    for case in CASES:
        for subtract in (True, False):
            yield f"{case}_{'subtracted' if subtract else 'plain'}", random_sae(case, subtract=subtract)
    sae = random_sae("standard")
    weights = sae.weights()
    lengths = torch.linspace(0.5, 2.0, sae.cfg.d_sae)[:, None]
    yield "standard_rows_not_unit", type(sae)(sae.cfg, weights | {"W_dec": weights["W_dec"] * lengths})


def main(out: Path) -> None:
    x = inputs()
    for case, sae in cases():
        for name, format in FORMATS.items():
            if format.write is None:
                continue
            folder = out / name / case
            try:
                save_sae(sae, folder, name)
            except UserError as error:
                print(f"{name}: {error.message}")
                continue
            codes = sae.encode(x)
            io = {"x": x, "codes": own_codes(sae, codes).contiguous(), "rebuilt": sae.decode(codes)}
            save_file(io, folder / "io.safetensors")
    weights = random_sae("topk").weights()
    for skip in ("transcoder", "skip_transcoder"):
        extra = {"W_skip": weights["W_enc"][:, : len(weights["W_enc"])]} if skip.startswith("skip") else {}
        coder = transcoder(weights | extra, act_fn="topk", k=K)
        folder = out / "sparsify" / skip
        save_sae(coder, folder, "sparsify")
        save_file({"x": x, "codes": coder.encode(x), "rebuilt": coder(x)}, folder / "io.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
