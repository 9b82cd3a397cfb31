"""Every short name of the registry opens as its release lies there: synthetic weights in the layout of its date.

The download is replaced by a local folder; the layouts are released_layouts.py's. One SAE of each release is opened in
`make test`, all 13,605 in the sweep.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from released_layouts import layouts
from test_formats_foreign import B_ENC, W_DEC, D, F, X

from saelab.core.errors import UserError
from saelab.core.sites import find_site
from saelab.saes import formats
from saelab.saes.base import Sae
from saelab.saes.formats.released import names_in, released, releases
from saelab.saes.formats.unpickle import _flattened
from saelab.saes.transcoder import Transcoder

PICKLED = ("dictionary_learning", "qwen_scope")


def opened(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Sae | Transcoder:
    """What `load` makes of a short name, and `convert` of one whose release is a pickle (read here, without a process
    for each)."""
    file = released(name).reference.rpartition("/")[2]
    here = folder / file if (folder / file).is_file() else folder
    patch.setattr(formats, "located", lambda reference, pickles=False: here)
    if releases()[name.partition("/")[0]].get("format") not in PICKLED:
        return formats.load(name)
    with pytest.raises(UserError, match=f"saelab convert {name}"):
        formats.load(name)
    source = formats.source_of(name, pickles=True)
    kind = formats.format_of(source)
    assert kind.pickle is not None
    leaves = _flattened(torch.load(folder / kind.pickle(source), weights_only=True), "")
    tensors = {key: value for key, value in leaves.items() if isinstance(value, torch.Tensor)}
    return kind.read(source, tensors, {key: value for key, value in leaves.items() if key not in tensors})


def check(name: str, found: Sae | Transcoder) -> None:
    """Its directions are those of the file, its LM is the registry's, its site the name's, and its latents fire."""
    weights = found.weights()
    cosines = torch.nn.functional.cosine_similarity(weights["W_dec"][:F], W_DEC)
    assert torch.allclose(cosines, torch.ones(F), atol=1e-5), name
    assert (found.encode(X)[:, :F] > 0).any(), name
    release = name.partition("/")[0]
    assert found.cfg.lm == releases()[release].get("lm", found.cfg.lm) is not None, name
    assert found.cfg.site is not None or "embedding" in name, name
    if (said := find_site(name.partition("/")[2])) is not None:
        assert found.cfg.site == str(said), name


def open_all(names: list[str], patch: pytest.MonkeyPatch) -> int:
    """Open every layout of every name; how many were opened."""
    count = 0
    for name in names:
        for make in layouts(name):
            with TemporaryDirectory() as folder:
                make(Path(folder))
                check(name, opened(name, Path(folder), patch))
            count += 1
    return count


def test_one_sae_of_each_release_opens_in_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{release}/{next(iter(names_in(release)))}" for release in releases()]
    unnamed = sum("format" not in data for data in releases().values())
    assert open_all(names, monkeypatch) == len(releases()) + 2 * unnamed


def test_the_check_tells_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The control: another decoder under the same name is not taken for it."""
    name = "gemma-2b-res-jb/blocks.0.hook_resid_post"
    layouts(name)[0](tmp_path)
    found = opened(name, tmp_path, monkeypatch)
    assert isinstance(found, Sae) and (found.cfg.d_in, found.cfg.d_sae, len(B_ENC)) == (D, F, F)
    found.W_dec.neg_()
    with pytest.raises(AssertionError):
        check(name, found)


def test_a_folder_whose_name_ends_as_a_pickle_does_is_a_folder(tmp_path: Path) -> None:
    """As the first folder of gpt2-small-resid-post-v5-32k, copied."""
    name = "gpt2-small-resid-post-v5-32k/blocks.0.hook_resid_post"
    folder = tmp_path / released(name).reference.rpartition("/")[2]
    assert folder.suffix == ".pt"
    layouts(name)[1](folder)
    assert formats.load_sae(folder).cfg.site == "resid_post.0"


@pytest.mark.sweep
@pytest.mark.parametrize("release", list(releases()))
def test_every_released_sae_opens_in_its_layout(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_all([f"{release}/{name}" for name in names_in(release)], monkeypatch) >= len(names_in(release)) > 0
