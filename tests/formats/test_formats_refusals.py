"""What the files state is not declared over, tensors that do not fit together are refused before anything is computed
with them, and what could not be written again is refused at the door."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_formats_foreign import B_DEC, B_ENC, LINEAR, TOPK, W_DEC, W_ENC, D, F, K, drawn, written

from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.saes.formats import FORMATS, load, load_sae, load_transcoder, source_of
from saelab.saes.transcoder import Transcoder
from saelab.store.tensors import read_tensors

HERE = Path(__file__).parent
G, GS = HERE / "golden", HERE / "golden_sites"
LLAMA, LLAMA_2 = G / "llama_scope" / "Llama3_1-8B-Base-L3R-8x", G / "llama_scope_2"
NORM = "dataset_average_activation_norm."

STATED = [
    (G / "sparsify" / "layers.3", {"k": 3}),
    (LLAMA, {"input_scale": 3.0}),
    (LLAMA_2 / "jumprelu_plain", {"input_scale": 3.0}),
    (LLAMA_2 / "topk_plain", {"k": 3}),
    (G / "saelens" / "unfinished_scaled_matching_pursuit", {"input_scale": 3.0}),
    (G / "saelens" / "trained_topk", {"k": 3}),
]


@pytest.mark.parametrize(("folder", "declared"), STATED, ids=[p.name for p, _ in STATED])
def test_a_fact_that_the_files_state_is_not_declared_over(folder: Path, declared: dict[str, Any]) -> None:
    load(folder, site="resid_post.9")  # control: a name may be
    with pytest.raises(UserError, match=f"was given {next(iter(declared))}, which its files state"):
        load(folder, **declared)


@pytest.mark.parametrize("said", [{"k": 9}, {"threshold": 3.0}])
def test_nor_are_those_of_a_pickle(tmp_path: Path, said: dict[str, Any]) -> None:
    (written(tmp_path, {"config.json": {"trainer": {"dict_class": "BatchTopKSAE"}}}) / "ae.pt").touch()
    stated = {"k": torch.tensor(K), "threshold": torch.tensor(0.2)}
    read, source = FORMATS["dictionary_learning"].read, source_of(tmp_path, **said)
    sae = read(source, TOPK | stated, {})
    assert isinstance(sae, torch.nn.Module) and source.declared.unused(said) == list(said)
    lacking = TOPK | ({"threshold": torch.tensor(-1.0), "k": stated["k"]} if "threshold" in said else {})
    source = source_of(tmp_path, threshold=0.2, **said) if "k" in said else source_of(tmp_path, **said)
    read(source, lacking, {})
    assert source.declared.unused(said) == []  # control: files that do not state it


def spoiled(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor in other shapes that would broadcast, multiply or run out."""
    if tensor.numel() == 1:
        return [torch.ones(2), torch.ones(0)]
    odd = [tensor[:-1], tensor[:1], tensor.flatten()[0], tensor[..., :-1]]
    if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]:
        odd.append(tensor.T)
    return [t for t in odd if t.shape != tensor.shape]


FOLDERS = [LLAMA, *LLAMA_2.iterdir(), *(GS / "llamascopium").iterdir(), *(G / "saelens").glob("unfinished_*")]
FOLDERS += [G / "saelens" / "topk_rescaled_plain", G / "sparsify" / "layers.3", G / "gemma_scope_2" / "resid_post"]
FOLDERS = sorted(path.parent for folder in FOLDERS for path in folder.rglob("io.safetensors"))


@pytest.mark.parametrize("folder", FOLDERS, ids=[f"{p.parent.name}-{p.name}" for p in FOLDERS])
def test_a_tensor_of_another_shape_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / folder.name
    shutil.copytree(folder, place)
    load(place)  # control
    for path in [p for p in place.rglob("*.safetensors") if p.name != "io.safetensors"]:
        tensors = read_tensors(path)
        for name, tensor in tensors.items():
            for odd in spoiled(tensor):
                save_file({n: t.contiguous() for n, t in (tensors | {name: odd}).items()}, path)
                with pytest.raises(SaelabError):
                    load(place)
        save_file(tensors, path)


@pytest.mark.parametrize("name", ["b_enc", "b_dec"])
def test_a_bias_of_a_set_that_is_one_number_is_refused(name: str, tmp_path: Path) -> None:
    path, tensors = tmp_path / "layer_0.safetensors", read_tensors(GS / "circuit_tracer/set_relu/layer_0.safetensors")
    save_file(tensors, path)
    load_transcoder(path)  # control
    save_file(tensors | {name: torch.tensor(0.5)}, path)
    with pytest.raises(SaelabError):
        load(path)


def llama_2(folder: Path, norms: dict[str, float], **config: Any) -> Path:
    tensors = {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC}
    tensors |= {NORM + hook: torch.tensor(value) for hook, value in norms.items()}
    said = {"act_fn": "relu", "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": False} | config
    return written(folder, {"config.json": said, "sae_weights.safetensors": tensors})


def test_a_norm_is_that_of_the_saes_own_hook(tmp_path: Path) -> None:
    here, there = "blocks.3.hook_resid_post", "blocks.4.hook_resid_post"
    one = {"hook_point_in": here, "hook_point_out": here}
    both = load_sae(llama_2(tmp_path / "a", {there: 9.0, here: 3.0}, **one))
    assert both.cfg.metadata["input_scale"] == pytest.approx(D**0.5 / 3)
    with pytest.raises(ArtefactError, match=f"average norm of {there}, and not of its hook {here}"):
        load(llama_2(tmp_path / "b", {there: 9.0}, **one))
    across = {"hook_point_in": here, "hook_point_out": there}
    assert isinstance(load_transcoder(llama_2(tmp_path / "c", {there: 9.0, here: 3.0}, **across)), Transcoder)
    with pytest.raises(ArtefactError, match=f"and not of its hook {there}"):
        load(llama_2(tmp_path / "d", {here: 3.0}, **across))
    with pytest.raises(ArtefactError, match="no hook_point_in"):
        load(llama_2(tmp_path / "e", {here: 3.0}, hook_point_out=here))


@pytest.mark.parametrize("folder", [LLAMA_2 / "jumprelu_plain", GS / "llamascopium" / "clt_jumprelu"])
def test_a_threshold_that_overflows_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    path, name = tmp_path / "a" / "sae_weights.safetensors", "activation_function.log_jumprelu_threshold"
    tensors = read_tensors(path)
    for value, opens in ((2.0, True), (200.0, False)):
        save_file(tensors | {name: torch.full_like(tensors[name], value)}, path)
        if opens:
            load(tmp_path / "a")
        else:
            with pytest.raises(ArtefactError, match="not finite"):
                load(tmp_path / "a")


def test_a_topks_k_is_a_whole_number(tmp_path: Path) -> None:
    shutil.copytree(G / "saelens" / "trained_topk", tmp_path / "a")
    path = tmp_path / "a" / "cfg.json"
    config = json.loads(path.read_text())
    for k in (5.0, 2.5):
        path.write_text(json.dumps(config | {"k": k}))
        if k == 5:
            assert load_sae(tmp_path / "a").cfg.k == 5
    with pytest.raises(UserError, match=r"k is 2\.5"):
        load(tmp_path / "a")


@pytest.mark.parametrize("odd", ["1e400", "NaN", '"a\\ud800b"'])
def test_what_could_not_be_written_again_is_refused_at_the_door(tmp_path: Path, odd: str) -> None:
    folder = written(tmp_path, {"cfg.json": {"k": K, "note": 0}, "sae.safetensors": LINEAR})
    load(folder)  # control
    (folder / "cfg.json").write_text(f'{{"k": {K}, "note": {odd}}}')
    with pytest.raises(ArtefactError, match="not finite, or a text"):
        load(folder)


MAP = {"W_enc": "w", "W_dec": "v", "b_enc": 0, "b_dec": 0}
LINE = ",".join(f"{a}={b}" for a, b in MAP.items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"{LINE},site=resid_pre.2,site_out=mlp_out.2,subtract_b_dec=true", "belongs to its output"),
        (f"{LINE},threshold=inf", "no finite number"),
        (f"{LINE},threshold=1e39", "no finite number"),
        (f"{LINE},threshold=nan", "no finite number"),
        (f"{LINE},b_enc=1", "says b_enc more than once"),
        (f"{LINE},architecture=relu,k=3", "A relu has no k"),
        ({"tensors": MAP, "threshold": "t"}, "unknown key 'threshold'"),
        ({"tensors": MAP, "lm": "a\ud800b"}, "not finite, or a text"),
    ],
)
def test_a_map_that_says_too_much_is_refused(tmp_path: Path, given: Any, said: str) -> None:
    save_file({"w": drawn(D, F), "v": drawn(F, D)}, tmp_path / "mine.safetensors")
    load_sae(tmp_path / "mine.safetensors", tensors=LINE)  # control
    load_transcoder(tmp_path / "mine.safetensors", tensors=f"{LINE},site_out=mlp_out.2")
    with pytest.raises(SaelabError, match=said):
        load(tmp_path / "mine.safetensors", tensors=given)
