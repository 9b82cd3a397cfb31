"""Does `saelab inspect` name what is wrong with an SAE? SAEs of a run folder, as they are and spoiled in one way each.

    python benchmarks/inspect_demo.py demo --sae jumprelu.l0_32.resid_post.15     (about ten seconds a line)

Each line is one run of the command itself (`saelab inspect FOLDER --lm ... --contexts 8 --json`) on a copy of the SAE:
as it is; with the site moved by one block, both ways; with its threshold dropped; with b_dec lost, and with b_dec taken
the other way. The last two also for the same SAE rewritten to the other bias convention, which alone changes nothing
and must be confirmed. A verdict counts as right if it confirms what is as it was, and names what was done where
something was. Exits with 1 if one was wrong.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from saelab.cli import main as saelab
from saelab.core.sites import Site, parse_site
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import Sae
from saelab.saes.formats import load_sae, save_sae
from saelab.saes.formats.conventions import with_bias_convention

RIGHT = "Does what it says"


def spoiled(sae: Sae) -> Iterator[tuple[str, Sae, str | None, str]]:
    """What was done, the SAE, the site to read, and what the verdict has to say."""
    place = parse_site(sae.cfg.site or "")
    yield "nothing", sae, None, RIGHT
    for layer in (place.layer - 1, place.layer + 1):
        wrong = str(Site(place.kind, layer))
        yield f"read at {wrong}", sae, wrong, f"reads {place}"
    weights = sae.weights()
    if "threshold" in weights:
        plain = ReluSae(sae.cfg, {n: t for n, t in weights.items() if n != "threshold"})
        yield "threshold dropped", plain, None, "a threshold near"
    for subtract in (True, False):
        same = with_bias_convention(sae, subtract=subtract)
        here = "" if subtract else " (b_dec not subtracted)"
        if not subtract:
            yield f"nothing{here}", same, None, RIGHT
        taken = type(sae)(same.cfg.model_copy(update={"subtract_b_dec": not subtract}), same.weights())
        yield f"b_dec taken the other way{here}", taken, None, f"b_dec is{'' if subtract else ' not'} subtracted"
        lost = type(sae)(same.cfg, same.weights() | {"b_dec": torch.zeros_like(same.b_dec)})
        yield f"b_dec lost{here}", lost, None, "b_dec near the mean"


def inspected(sae: Sae, site: str | None, lm: str, contexts: int) -> dict[str, Any]:
    """The command's own record."""
    with tempfile.TemporaryDirectory() as folder:
        save_sae(sae, folder)
        words = ["inspect", folder, "--lm", lm, "--contexts", str(contexts), "--json"]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            saelab(words + (["--site", site] if site else []))
    return json.loads(out.getvalue())["proof"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder, such as demo")
    parser.add_argument("--sae", action="append", help="its SAEs; by default those at L0 32, resid_post.15")
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--contexts", type=int, default=8)
    given = parser.parse_args()
    names = given.sae or sorted(p.name for p in (given.run / "saes").glob("*.l0_32.resid_post.15"))
    print("| SAE | done to it | L0 | FVU | verdict | right |\n|---|---|---|---|---|---|")
    wrong = 0
    for name in names:
        for done, sae, site, expected in spoiled(load_sae(given.run / "saes" / name)):
            proof = inspected(sae, site, given.lm, given.contexts)
            right = expected in proof["verdict"] and proof["holds"] == (expected == RIGHT)
            wrong += not right
            line = f"| {name} | {done} | {proof['l0']:.1f} | {proof['fvu']:.3f} | {proof['verdict']}"
            print(f"{line} | {'yes' if right else 'NO'} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
