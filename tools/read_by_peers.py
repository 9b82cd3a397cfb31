"""SAEs that saelab wrote (tools/write_for_peers.py), opened by the loaders of others, each in its own environment.

    python tools/write_for_peers.py OUT                   # saelab's environment
    python tools/read_by_peers.py LOADER OUT              # golden_saes.py says how the environments are made

SAEBench's loaders are read in sae-lens' environment: pip install --no-deps sae-bench==0.6.0. They and sae-lens' loaders
fetch from a hub: that is replaced by the local file. The script imports nothing of saelab.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from golden_saes import dl_classes, inputs, sparsify_outputs
from safetensors.torch import load_file

TOLERANCE = 1e-5
Outputs = tuple[torch.Tensor, torch.Tensor]


def outputs(sae: Any) -> Outputs:
    codes = sae.encode(inputs())
    codes = codes[0] if isinstance(codes, tuple) else codes
    return codes, sae.decode(codes)


def saelens(folder: Path) -> Outputs:
    from sae_lens import SAE

    return outputs(SAE.load_from_disk(folder, device="cpu"))


def by_saelens(loader: str, repo: str, inside: str, folder: Path) -> Outputs:
    """One of sae-lens' loaders of released layouts."""
    import sae_lens.loading.pretrained_sae_loaders as loaders
    from sae_lens import SAE

    def local(repo_id: str = "", filename: str = "", **_: Any) -> str:
        return str(folder / Path(filename).name)

    loaders.hf_hub_download = local
    cfg, state, _ = getattr(loaders, loader)(repo, inside, "cpu", False, {"dtype": "float32", "device": "cpu"})
    cfg |= {"d_in": state["W_enc"].shape[0], "d_sae": state["W_enc"].shape[1]}  # some take them from released names
    cfg = loaders.handle_config_defaulting(cfg)
    sae = SAE.from_dict(cfg)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    return outputs(sae)


def gemma_scope(folder: Path) -> Outputs:
    place = "layer_12/width_16k/average_l0_82"
    return by_saelens("gemma_2_sae_huggingface_loader", "google/gemma-scope-2b-pt-res", place, folder)


def dictionary_learning(folder: Path) -> Outputs:
    """The class that config.json names, and its state dict."""
    config = json.loads((folder / "config.json").read_text())["trainer"]
    sae = dl_classes()[config["dict_class"]]()
    sae.load_state_dict(torch.load(folder / "ae.pt", weights_only=True))
    return outputs(sae)


def decoder_norms(folder: Path) -> torch.Tensor:
    state = torch.load(folder / "ae.pt", weights_only=True)
    return state["W_dec"].norm(dim=1) if "W_dec" in state else state["decoder.weight"].norm(dim=0)


def scales_relu(folder: Path) -> torch.Tensor | float:
    """What codes of an AutoEncoder are multiplied by where a loader brings decoder rows to unit norm."""
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    return decoder_norms(folder) if name == "AutoEncoder" else 1.0


def load_dictionary(folder: Path) -> Outputs:
    from dictionary_learning.utils import load_dictionary

    codes, rebuilt = outputs(load_dictionary(str(folder), "cpu")[0])
    return codes / scales_relu(folder), rebuilt


def dictionary_learning_by_saelens(folder: Path) -> Outputs:
    return by_saelens("dictionary_learning_sae_huggingface_loader_1", "somebody/saes", "trainer_0", folder)


def dictionary_learning_by_saebench(folder: Path) -> Outputs:
    """The loader that SAEBench's TRAINER_LOADERS has for trainer_class, in float32."""
    import transformer_lens

    transformer_lens.HookedTransformer = object  # imported for a method that is not called here
    from sae_bench.custom_saes import batch_topk_sae, gated_sae, jumprelu_sae, relu_sae, topk_sae

    kinds = {
        "BatchTopKTrainer": (batch_topk_sae, "batch_topk"),
        "TopKTrainer": (topk_sae, "topk"),
        "StandardTrainer": (relu_sae, "relu"),
        "JumpReluTrainer": (jumprelu_sae, "jump_relu"),
        "GatedSAETrainer": (gated_sae, "gated"),
    }
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    module, kind = kinds[trainer["trainer_class"]]

    def local(repo_id: str = "", filename: str = "", **_: Any) -> str:
        return str(folder / Path(filename).name)

    module.hf_hub_download = local
    load = getattr(module, f"load_dictionary_learning_{kind}_sae")
    sae = load("somebody/saes", "trainer_0/ae.pt", "gpt2", torch.device("cpu"), torch.float32, layer=3)
    assert sae.cfg.hook_name == "blocks.3.hook_resid_post"
    codes, rebuilt = outputs(sae)
    return codes / scales_relu(folder), rebuilt


def sparsify(folder: Path) -> Outputs:
    from sparsify import SparseCoder

    coder = SparseCoder.load_from_disk(folder, device="cpu")
    return sparsify_outputs(coder)[0], coder(inputs()).sae_out


# loader -> (the format it reads, how)
LOADERS: dict[str, tuple[str, Callable[[Path], Outputs]]] = {
    "saelens": ("saelens", saelens),
    "gemma_scope": ("gemma_scope", gemma_scope),
    "dictionary_learning": ("dictionary_learning", dictionary_learning),
    "load_dictionary": ("dictionary_learning", load_dictionary),
    "dictionary_learning_by_saelens": ("dictionary_learning", dictionary_learning_by_saelens),
    "dictionary_learning_by_saebench": ("dictionary_learning", dictionary_learning_by_saebench),
    "sparsify": ("sparsify", sparsify),
}


def main() -> int:
    """How many folders the loader refuses, or reads otherwise than saelab."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=sorted(LOADERS))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    format, read = LOADERS[given.loader]
    wrong = 0
    for folder in sorted(p.parent for p in (given.folder / format).glob("*/io.safetensors")):
        expected = load_file(folder / "io.safetensors")
        try:
            with torch.no_grad():
                codes, rebuilt = read(folder)
        except Exception as error:  # a loader's refusal is a finding, whatever its kind
            wrong += 1
            print(f"{given.loader}\t{folder.name}\tREFUSED\t{type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        worst = max(float((codes - expected["codes"]).abs().max()), float((rebuilt - expected["rebuilt"]).abs().max()))
        wrong += worst > TOLERANCE
        print(f"{given.loader}\t{folder.name}\t{worst:.2e}\t{'same' if worst <= TOLERANCE else 'DIFFERENT'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
