"""Golden SAEs, written by the libraries whose formats saelab reads. Run it in an environment of the library.

    pip install torch==2.13.0 sae-lens==6.54.12                                      # library: saelens
    pip install torch==2.13.0 nnsight einops; pip install --no-deps dictionary-learning==0.1.0   # dictionary_learning
    pip install torch==2.13.0 eai-sparsify==1.3.3                                    # sparsify
    pip install torch==2.13.0 llamascopium==2.0.0b34 "transformer-lens<4" "transformers<5"   # llama_scope_2
    github.com/openai/sparse_autoencoder at 764586a, its model.py on PYTHONPATH (torch only)                # openai

    python tools/golden_saes.py LIBRARY tests/formats/golden          # writes LIBRARY/CASE/ with io.safetensors

`io.safetensors` of a case holds x [N, D] and the library's own codes [N, F] and rebuilt [N, D]. The script imports
nothing of saelab, so what it says is the library's word alone. tools/read_by_peers.py opens what saelab wrote.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

D, F, K, N = 16, 48, 5, 12


def lively(module: torch.nn.Module, seed: int) -> None:
    """Weights that leave no bias at zero and no gate trivial."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            if "threshold" in name:
                p.copy_(torch.rand(p.shape, generator=g) * 0.8)
            elif p.ndim == 1:
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
            else:
                p.copy_(torch.randn(p.shape, generator=g) * 0.4)


def inputs() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(99))


def store(folder: Path, codes: torch.Tensor, rebuilt: torch.Tensor) -> None:
    tensors = {"x": inputs(), "codes": codes.detach(), "rebuilt": rebuilt.detach()}
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, folder / "io.safetensors")


# ---- sae-lens -------------------------------------------------------------------------------------------------------


def make_saelens(out: Path) -> None:
    import sae_lens as sl

    kinds = {
        "standard": (sl.StandardSAE, sl.StandardSAEConfig, {}),
        "gated": (sl.GatedSAE, sl.GatedSAEConfig, {}),
        "jumprelu": (sl.JumpReLUSAE, sl.JumpReLUSAEConfig, {}),
        "topk": (sl.TopKSAE, sl.TopKSAEConfig, {"k": K}),
        "topk_rescaled": (sl.TopKSAE, sl.TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
        "layer_norm_topk": (sl.TopKSAE, sl.TopKSAEConfig, {"k": K, "normalize_activations": "layer_norm"}),
        "layer_norm_jumprelu": (sl.JumpReLUSAE, sl.JumpReLUSAEConfig, {"normalize_activations": "layer_norm"}),
        "norm_rescaled_standard": (
            sl.StandardSAE,
            sl.StandardSAEConfig,
            {"normalize_activations": "constant_norm_rescale"},
        ),
        "matching_pursuit": (sl.MatchingPursuitSAE, sl.MatchingPursuitSAEConfig, {"residual_threshold": 1.0}),
        "matching_pursuit_long": (
            sl.MatchingPursuitSAE,
            sl.MatchingPursuitSAEConfig,
            {"residual_threshold": 0.0, "max_iterations": 7, "stop_on_duplicate_support": False},
        ),
    }
    for seed, (name, (kind, config, extra)) in enumerate(kinds.items()):
        for subtract in (True, False):
            cfg = config(d_in=D, d_sae=F, dtype="float32", device="cpu", apply_b_dec_to_input=subtract, **extra)
            cfg.metadata.hook_name = "blocks.3.hook_resid_post"
            cfg.metadata.model_name = "gpt2"
            sae = kind(cfg)
            lively(sae, seed)
            folder = out / f"{name}_{'subtracted' if subtract else 'plain'}"
            folder.mkdir(parents=True, exist_ok=True)
            sae.save_model(folder)
            codes = sae.encode(inputs())
            store(folder, codes, sae.decode(codes))


# ---- dictionary_learning --------------------------------------------------------------------------------------------


def dl_classes() -> dict[str, object]:
    from dictionary_learning import dictionary as d
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    return {
        "AutoEncoder": lambda: d.AutoEncoder(D, F),
        "AutoEncoderNew": lambda: d.AutoEncoderNew(D, F),
        "GatedAutoEncoder": lambda: d.GatedAutoEncoder(D, F),
        "JumpReluAutoEncoder": lambda: d.JumpReluAutoEncoder(D, F),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(D, F, K),
        "BatchTopKSAE": lambda: BatchTopKSAE(D, F, K),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, F, K, [16, 32]),
    }


def make_dictionary_learning(out: Path) -> None:
    for seed, name in enumerate(dl_classes()):
        write_dictionary_learning(out / name, name, 20 + seed)
    # Before 22 December 2024 k and the threshold were no tensors of a TopK, and submodule_name was often not given.
    buffers = ("k", "threshold")
    write_dictionary_learning(out / "AutoEncoderTopK_without_buffers", "AutoEncoderTopK", 50, without=buffers)
    # The first spelling of the class, in a file of its time.
    write_dictionary_learning(
        out / "MatroyshkaBatchTopKSAE", "MatryoshkaBatchTopKSAE", 51, said={"dict_class": "MatroyshkaBatchTopKSAE"}
    )
    # The file of an interrupted run: another layout under the same name, weights not scaled yet.
    sae = dl_classes()["AutoEncoder"]()
    lively(sae, 40)
    folder = out / "interrupted"
    folder.mkdir(parents=True, exist_ok=True)
    state = {"step": 7, "ae": {k: v.clone() for k, v in sae.state_dict().items()}, "norm_factor": 2.5, "config": {}}
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": F}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}, indent=2))
    sae.scale_biases(2.5)
    codes = sae.encode(inputs())
    store(folder, codes, sae.decode(codes))


def write_dictionary_learning(
    folder: Path, name: str, seed: int, *, without: tuple[str, ...] = (), said: dict[str, str] | None = None
) -> None:
    """A class's state dict and config as its training loop writes them; `without`: what older layouts do not have."""
    sae = dl_classes()[name]()
    lively(sae, seed)
    if hasattr(sae, "threshold") and sae.threshold.ndim == 0:
        sae.threshold.data.fill_(0.6)
    folder.mkdir(parents=True, exist_ok=True)
    state = sae.state_dict()
    for key in without:
        del state[key]
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "lm_name": "gpt2", "layer": 3}
    trainer |= ({} if without else {"submodule_name": "resid_post_layer_3"}) | {"k": K} | (said or {})
    config = {"trainer": trainer, "buffer": {"io": "out"} if without else {}}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    codes = sae.encode(inputs())
    store(folder, codes, sae.decode(codes))


# ---- sparsify -------------------------------------------------------------------------------------------------------


def sparsify_outputs(sae: object) -> tuple[torch.Tensor, torch.Tensor]:
    out = sae.encode(inputs())
    codes = torch.zeros(N, F).scatter(1, out.top_indices.long(), out.top_acts.float())
    return codes, sae.decode(out.top_acts, out.top_indices)


def make_sparsify(out: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    # name -> (config, keys that cfg.json did not have when such files were written)
    periods: dict[str, tuple[dict[str, bool], tuple[str, ...]]] = {
        "layers.3": ({}, ()),
        "unflagged/layers.3": ({}, ("transcode", "skip_connection", "activation", "multi_topk")),
        "transcoder/layers.3.mlp": ({"transcode": True}, ()),
        "skip_transcoder/layers.3.mlp": ({"transcode": True, "skip_connection": True}, ()),
        "skip_unflagged/layers.3.mlp": ({"skip_connection": True}, ("transcode", "activation")),
    }
    for seed, (name, (extra, absent)) in enumerate(periods.items(), 60):
        coder = SparseCoder(D, SparseCoderConfig(num_latents=F, k=K, **extra), device="cpu", dtype=torch.float32)
        lively(coder, seed)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        coder.save_to_disk(folder)
        config = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if k not in absent}))
        read = SparseCoder.load_from_disk(folder, device="cpu")
        codes, _ = sparsify_outputs(read)
        store(folder, codes, read(inputs()).sae_out)


# ---- openai/sparse_autoencoder --------------------------------------------------------------------------------------


def make_openai(out: Path) -> None:
    from sparse_autoencoder.model import Autoencoder, TopK

    kinds = {"v4": {}, "v5_32k": {"activation": TopK(K), "normalize": True}}
    for seed, (version, extra) in enumerate(kinds.items(), 70):
        sae = Autoencoder(F, D, **extra)
        lively(sae, seed)
        folder = out / f"resid_post_mlp_{version}" / "autoencoders"
        folder.mkdir(parents=True, exist_ok=True)
        # its state_dict also writes "activation.k", which its own from_state_dict refuses
        state = {key: value for key, value in sae.state_dict().items() if not key.startswith("activation.")}
        torch.save(state, folder / "3.pt")
        read = Autoencoder.from_state_dict(torch.load(folder / "3.pt", weights_only=True))
        codes, moments = read.encode(inputs())
        store(folder, codes, read.decode(codes, moments))


# ---- llamascopium (Llama Scope's successor) -------------------------------------------------------------------------


def make_llama_scope_2(out: Path) -> None:
    """Its own class on activations as its trainer normalises them; codes are stored in raw units.

    Where its TopK compares by decoder norms, codes are stored times those norms: so they are in saelab, whose decoder
    rows are of unit norm then.
    """
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

    hook, norm = "blocks.3.hook_resid_post", 7.0
    cases = {
        f"{gate}_{by}": (gate, by == "by_norm") for gate in ("relu", "jumprelu", "topk") for by in ("plain", "by_norm")
    }
    cases |= {"folded_topk_by_norm": ("topk", True), "folded_jumprelu_plain": ("jumprelu", False)}
    for seed, (name, (gate, by_norm)) in enumerate(cases.items(), 90):
        cfg = SAEConfig(
            hook_point_in=hook,
            hook_point_out=hook,
            d_model=D,
            expansion_factor=F / D,
            act_fn=gate,
            top_k=K,
            sparsity_include_decoder_norm=by_norm,
            device="cpu",
            dtype=torch.float32,
        )
        sae = SparseAutoEncoder(cfg)
        lively(sae, seed)
        if gate == "jumprelu":
            sae.activation_function.log_jumprelu_threshold.data.sub_(1.0)
        sae.set_dataset_average_activation_norm({hook: norm})
        folder = out / name
        sae.save_pretrained(folder, fold_activation_scale=name.startswith("folded"))
        sae.cfg.save_hyperparameters(folder)
        read = SparseAutoEncoder.from_pretrained(str(folder))
        batch, scales = read.normalize_activations({hook: inputs()}, return_scale_factor=True)
        codes = read.encode(batch[hook])
        rebuilt = read.denormalize_activations({hook: read.decode(codes)}, scales)[hook]
        gain = read.decoder_norm() if gate == "topk" and by_norm else 1.0
        store(folder, codes / scales[hook] * gain, rebuilt)


MAKERS = {
    "saelens": make_saelens,
    "dictionary_learning": make_dictionary_learning,
    "sparsify": make_sparsify,
    "llama_scope_2": make_llama_scope_2,
    "openai": make_openai,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=sorted(MAKERS))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with torch.no_grad():
        MAKERS[given.library](given.folder / given.library)


if __name__ == "__main__":
    main()
