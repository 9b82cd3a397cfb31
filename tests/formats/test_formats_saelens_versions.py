"""SAELens 0.5 to the newest: what each version saved, and what its training runner left, gives its own codes to 1e-5.

tools/golden_saelens_versions.py wrote the folders golden_saelens/vVERSION.CASE, in environments of the versions.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_saes import own_codes

from saelab.core.errors import UserError
from saelab.saes.base import Sae
from saelab.saes.formats import load_sae
from saelab.store.tensors import read_metadata, read_tensors

GOLDEN = Path(__file__).parent / "golden_saelens"
CASES = sorted(p.parent for p in GOLDEN.rglob("io.safetensors"))
VERSIONS = {"0.5.1", "1.8.0", "2.1.3", "3.23.4", "4.4.5", "5.11.0", "6.0.0", "6.12.3", "6.54.12"}


def difference(sae: Sae, folder: Path) -> float:
    """The largest of codes and of reconstruction to the library's own, on the library's own inputs."""
    expected = read_tensors(folder / "io.safetensors")
    codes = sae.encode(expected["x"])
    pairs = [(own_codes(sae, codes), expected["codes"]), (sae.decode(codes), expected["rebuilt"])]
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


def opened(folder: Path) -> Sae:
    """As a user opens it: a scale that is not in the files is given."""
    scale = read_metadata(folder / "io.safetensors").get("input_scale")
    return load_sae(folder, input_scale=float(scale)) if scale else load_sae(folder)


def test_every_version_is_there_by_both_paths() -> None:
    """Without them nothing below is tested."""
    about = {folder.name: read_metadata(folder / "io.safetensors") for folder in CASES}
    for path in ("saved", "run"):
        assert {about[name]["version"] for name in about if f".{path}_" in name} == VERSIONS
    assert all(sum(f.stat().st_size for f in p.rglob("*")) < 20_000 for p in CASES)
    assert all((read_tensors(p / "io.safetensors")["codes"] != 0).any() for p in CASES)


@pytest.mark.parametrize("folder", CASES, ids=[p.name for p in CASES])
def test_codes_and_reconstruction_are_the_versions_own(folder: Path) -> None:
    about = read_metadata(folder / "io.safetensors")
    if reason := about.get("refused"):
        with pytest.raises(UserError, match=reason):
            load_sae(folder)
        return
    assert difference(opened(folder), folder) <= 1e-5
    if scale := about.get("input_scale"):
        with pytest.raises(UserError, match="scale is not in its files"):
            load_sae(folder)
        assert difference(load_sae(folder, input_scale=2 * float(scale)), folder) > 1e-3, "any scale would pass"
        return
    sae = load_sae(folder)
    assert (sae.cfg.site, sae.cfg.lm) == ("resid_post.3", "gpt2")


def table() -> Iterator[str]:
    """The rows of docs/formats.md: version, cases opened, largest difference, cases that need a scale, refused."""
    about = {folder: read_metadata(folder / "io.safetensors") for folder in CASES}
    for version in sorted(VERSIONS, key=lambda v: [int(part) for part in v.split(".")]):
        own = {folder: facts for folder, facts in about.items() if facts["version"] == version}
        refused = [folder.name.rpartition(f"v{version}.")[2] for folder, facts in own.items() if "refused" in facts]
        worst = max(difference(opened(folder), folder) for folder, facts in own.items() if "refused" not in facts)
        asked = sum("input_scale" in facts for facts in own.values())
        yield f"| {version} | {len(own) - len(refused)} | {worst:.1e} | {asked} | {', '.join(refused) or 'none'} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")
