"""Writes SAEs of every architecture in every format that can hold them, for the peers to read back.

python tools/write_for_peers.py OUT       # OUT/FORMAT/CASE/ with io.safetensors: x, our codes, our reconstruction
python tools/golden_saes.py read FORMAT OUT/FORMAT      # in the peer's environment
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from saelab.core.errors import UserError
from saelab.saes.formats import FORMATS, save_sae

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "formats"))
from sample_saes import CASES, inputs, own_codes, random_sae


def main(out: Path) -> None:
    x = inputs()
    for case in CASES:
        for subtract in (True, False):
            sae = random_sae(case, subtract=subtract)
            for name, format in FORMATS.items():
                folder = out / name / f"{case}_{'subtracted' if subtract else 'plain'}"
                if format.write is None:
                    continue
                try:
                    save_sae(sae, folder, name)
                except UserError as error:
                    print(f"{name}: {error.message}")
                    continue
                codes = sae.encode(x)
                io = {"x": x, "codes": own_codes(sae, codes).contiguous(), "rebuilt": sae.decode(codes)}
                save_file(io, folder / "io.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
