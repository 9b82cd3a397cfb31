"""Golden SAEs beside those of golden_saes.py: trained by the libraries, and released layouts as sae-lens reads them.

    python tools/golden_trained.py LIBRARY tests/formats/golden     # saelens, dictionary_learning or sparsify

In an environment of the library (golden_saes.py says how). A few hundred steps on planted codes leave no bias, norm or
threshold where it began. The layouts that no library writes (Gemma Scope 1 and 2, Llama Scope, Qwen-Scope) are laid out
here with random weights and opened by sae-lens' own loaders, the hub's download replaced by the local file.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from golden_saes import D, F, K, inputs, lively, sparsify_outputs, store
from safetensors.torch import save_file

STEPS, BATCH = 300, 64


def batches() -> list[torch.Tensor]:
    """Sparse non-negative codes of planted directions, with a mean: [STEPS, BATCH, D]."""
    g = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.randn(F, D, generator=g), dim=1)
    active = torch.rand(STEPS, BATCH, F, generator=g) < K / F
    codes = active * (0.5 + torch.rand(STEPS, BATCH, F, generator=g))
    return list(codes @ directions + 0.5)


def fit(parameters: list[torch.nn.Parameter], loss_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
    adam = torch.optim.Adam(parameters, lr=3e-3)
    for x in batches():
        adam.zero_grad()
        loss_of(x).backward()
        adam.step()


# ---- sae-lens -------------------------------------------------------------------------------------------------------


def make_saelens(out: Path) -> None:
    import sae_lens as sl
    from sae_lens.saes.sae import TrainStepInput

    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "standard": (sl.StandardTrainingSAE, sl.StandardTrainingSAEConfig, {"l1_coefficient": 0.05}),
        "gated": (sl.GatedTrainingSAE, sl.GatedTrainingSAEConfig, {"l1_coefficient": 0.05}),
        "topk": (sl.TopKTrainingSAE, sl.TopKTrainingSAEConfig, {"k": K}),
        "abstopk": (sl.AbsTopKTrainingSAE, sl.AbsTopKTrainingSAEConfig, {"k": K}),
        "jumprelu": (sl.JumpReLUTrainingSAE, sl.JumpReLUTrainingSAEConfig, {"l0_coefficient": 0.02}),
        "batchtopk": (sl.BatchTopKTrainingSAE, sl.BatchTopKTrainingSAEConfig, {"k": 4.5, "topk_threshold_lr": 0.05}),
        "matryoshka": (
            sl.MatryoshkaBatchTopKTrainingSAE,
            sl.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": K, "matryoshka_widths": [16, F], "topk_threshold_lr": 0.05},
        ),
        "matching_pursuit": (
            sl.MatchingPursuitTrainingSAE,
            sl.MatchingPursuitTrainingSAEConfig,
            {"residual_threshold": 0.3, "max_iterations": K},
        ),
    }
    for name, (kind, config, extra) in kinds.items():
        cfg = config(d_in=D, d_sae=F, dtype="float32", device="cpu", **extra)
        cfg.metadata.hook_name, cfg.metadata.model_name = "blocks.3.hook_resid_post", "gpt2"
        torch.manual_seed(3)
        sae = kind(cfg)
        weights = {n: c.value for n, c in sae.get_coefficients().items()}

        def loss_of(x: torch.Tensor, sae: Any = sae, weights: dict[str, float] = weights) -> torch.Tensor:
            step = TrainStepInput(x, weights, None, 0, False)
            return sae.training_forward_pass(step).loss

        fit(list(sae.parameters()), loss_of)
        finished = out / "saelens" / f"trained_{name}"
        sae.save_inference_model(finished)
        read = sl.SAE.load_from_disk(finished, device="cpu")
        codes = read.encode(inputs())
        store(finished, codes, read.decode(codes))
        unfinished = out / "saelens" / f"unfinished_{name}"
        sae.save_model(unfinished)
        store(unfinished, codes, read.decode(codes))
    make_before_folding(out)
    for folder in ("gemma_scope", "gemma_scope_2", "llama_scope", "qwen_scope"):
        LAYOUTS[folder](out)


def make_before_folding(out: Path) -> None:
    """Folders of an unfinished training whose scale or whitening lies beside the weights, and what they finish as."""
    import sae_lens as sl
    from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

    g = torch.Generator().manual_seed(17)
    matrix = torch.randn(D, D, generator=g) + 4 * torch.eye(D)
    whitening = ActivationWhitening(torch.randn(D, generator=g), matrix, torch.linalg.inv(matrix))
    white, scaled = (
        {"normalize_activations": "covariance_whitening"},
        {"normalize_activations": "expected_average_only_in"},
    )
    plain = {"apply_b_dec_to_input": False}
    cases: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "whitened_standard": (sl.StandardTrainingSAE, sl.StandardTrainingSAEConfig, white),
        "whitened_gated_plain": (sl.GatedTrainingSAE, sl.GatedTrainingSAEConfig, white | plain),
        "whitened_topk_plain": (sl.TopKTrainingSAE, sl.TopKTrainingSAEConfig, white | plain | {"k": K}),
        "scaled_matching_pursuit": (
            sl.MatchingPursuitTrainingSAE,
            sl.MatchingPursuitTrainingSAEConfig,
            scaled | {"residual_threshold": 1.0},
        ),
    }
    for seed, (name, (kind, config, extra)) in enumerate(cases.items(), 80):
        cfg = config(d_in=D, d_sae=F, dtype="float32", device="cpu", **extra)
        cfg.metadata.hook_name, cfg.metadata.model_name = "blocks.3.hook_resid_post", "gpt2"
        sae = kind(cfg)
        lively(sae, seed)
        folder = out / "saelens" / f"unfinished_{name}"
        sae.save_model(folder)
        with torch.no_grad():
            if name.startswith("whitened"):
                ActivationScaler(whitening=whitening).save(str(folder / "activation_scaler.json"))
                sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
            else:
                ActivationScaler(scaling_factor=1.7).save(str(folder / "activation_scaler.json"))
                sae.fold_activation_norm_scaling_factor(1.7)
            with tempfile.TemporaryDirectory() as finished:
                sae.save_inference_model(finished)
                read = sl.SAE.load_from_disk(finished, device="cpu")
            codes = read.encode(inputs())
            store(folder, codes, read.decode(codes))


def drawn(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    weights = {"W_enc": torch.randn(D, F, generator=g) * 0.4, "W_dec": torch.randn(F, D, generator=g) * 0.4}
    weights |= {"b_enc": torch.randn(F, generator=g) * 0.3, "b_dec": torch.randn(D, generator=g) * 0.3}
    return weights | {"threshold": torch.rand(F, generator=g) * 0.8}


def read_by_loader(loader: str, root: Path, repo: str, folder: str) -> Any:
    """The SAE that sae-lens makes of local files, by one of its loaders for released layouts."""
    import sae_lens.loading.pretrained_sae_loaders as loaders
    from sae_lens import SAE
    from safetensors import safe_open

    def local(repo_id: str = "", filename: str = "", subfolder: str | None = None, **_: Any) -> str:
        return str(root / (subfolder or "") / filename)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(root / filename, "pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
    # some loaders take the width from released names, and scale by it
    overrides = {"dtype": "float32", "device": "cpu", "d_in": D}
    cfg, state, _ = getattr(loaders, loader)(repo, folder, "cpu", False, overrides)
    cfg |= {"d_in": state["W_enc"].shape[0], "d_sae": state["W_enc"].shape[1]}
    cfg |= {"d_out": state["W_dec"].shape[1]} if "d_out" in cfg else {}
    cfg = loaders.handle_config_defaulting(cfg)
    sae = SAE.from_dict(cfg)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    return sae


def finish(sae: Any, folder: Path, scale: float = 1.0) -> None:
    """scale: what sae-lens leaves in its codes and saelab does not."""
    codes = sae.encode(inputs())
    rebuilt = sae(inputs()) if hasattr(sae, "W_skip") else sae.decode(codes)
    store(folder, codes / scale, rebuilt)


def make_gemma_scope(out: Path) -> None:
    places = {
        "gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_82": "gemma_2_sae_huggingface_loader",
        "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6": "gemma_2_sae_huggingface_loader",
        "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_76": "gemma_2_transcoder_huggingface_loader",
    }
    for seed, (place, loader) in zip((31, 35, 36), places.items(), strict=True):
        folder = out / "gemma_scope" / place
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "params.npz", **{k: v.numpy() for k, v in drawn(seed).items()})
        root, _, inside = place.partition("/")
        finish(read_by_loader(loader, out / "gemma_scope" / root, f"google/{root}", inside), folder)


def make_gemma_scope_2(out: Path) -> None:
    root, inside = out / "gemma_scope_2", "resid_post/layer_3_width_16k_l0_small"
    (root / inside).mkdir(parents=True, exist_ok=True)
    save_file({k.lower(): v for k, v in drawn(32).items()}, root / inside / "params.safetensors")
    hook = "model.layers.3.output"
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "affine_connection": False}
    config |= {"hf_hook_point_in": hook, "hf_hook_point_out": hook}
    (root / inside / "config.json").write_text(json.dumps(config))
    finish(read_by_loader("gemma_3_sae_huggingface_loader", root, "google/gemma-scope-2-1b-pt", inside), root / inside)
    root = out / "gemma_scope_2" / "gemma-scope-2-1b-pt"
    for seed, affine in ((37, False), (38, True)):
        inside = "transcoder_all/layer_3_width_16k_l0_small" + ("_affine" if affine else "")
        (root / inside).mkdir(parents=True, exist_ok=True)
        weights = {k.lower(): v for k, v in drawn(seed).items()}
        weights |= {"affine_skip_connection": drawn(seed + 10)["W_enc"][:, :D].contiguous()} if affine else {}
        save_file(weights, root / inside / "params.safetensors")
        block = "model.layers.3"
        config |= {"affine_connection": affine, "hf_hook_point_in": f"{block}.pre_feedforward_layernorm.output"}
        config |= {"hf_hook_point_out": f"{block}.post_feedforward_layernorm.output"}
        (root / inside / "config.json").write_text(json.dumps(config))
        loader = "gemma_3_sae_huggingface_loader"
        finish(read_by_loader(loader, root, "google/gemma-scope-2-1b-pt", inside), root / inside)


def make_llama_scope(out: Path) -> None:
    root, inside = out / "llama_scope", "Llama3_1-8B-Base-L3R-8x"
    (root / inside / "checkpoints").mkdir(parents=True, exist_ok=True)
    w = drawn(33)
    linear = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    linear |= {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}
    save_file({k: v.contiguous() for k, v in linear.items()}, root / inside / "checkpoints" / "final.safetensors")
    hook, norm = "blocks.3.hook_resid_post", 7.0
    config = {"d_model": D, "d_sae": F, "hook_point_in": hook, "hook_point_out": hook, "jump_relu_threshold": 0.4}
    config |= {"act_fn": "jumprelu", "dataset_average_activation_norm": {"in": norm, "out": norm}}
    (root / inside / "hyperparams.json").write_text(json.dumps(config))
    sae = read_by_loader("llama_scope_sae_huggingface_loader", root, "fnlp/Llama3_1-8B-Base-LXR-8x", inside)
    sae.fold_activation_norm_scaling_factor(D**0.5 / norm)
    finish(sae, root / inside, scale=D**0.5 / norm)


def make_qwen_scope(out: Path) -> None:
    name = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    root = out / "qwen_scope" / name
    root.mkdir(parents=True, exist_ok=True)
    w = drawn(34)
    del w["threshold"]
    torch.save(w | {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"].T.contiguous()}, root / "layer3.sae.pt")
    sae = read_by_loader("qwen_scope_sae_huggingface_loader", root, f"Qwen/{name}", "layer3.sae.pt")
    finish(sae, root)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "gemma_scope": make_gemma_scope,
    "gemma_scope_2": make_gemma_scope_2,
    "llama_scope": make_llama_scope,
    "qwen_scope": make_qwen_scope,
}


# ---- dictionary_learning and sparsify -------------------------------------------------------------------------------


def make_dictionary_learning(out: Path) -> None:
    """Its own trainers, then scale_biases and the files as its training loop writes them."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    shared = {"steps": STEPS, "activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "gpt2", "device": "cpu"}
    shared |= {"submodule_name": "resid_post_layer_3", "warmup_steps": 10, "seed": 5, "lr": 3e-3}
    top = {"k": K, "threshold_start_step": 20, "threshold_beta": 0.9}
    trainers: dict[str, tuple[Any, dict[str, Any]]] = {
        "standard": (StandardTrainer, {"sparsity_warmup_steps": 20, "l1_penalty": 0.05}),
        "gated": (GatedSAETrainer, {"sparsity_warmup_steps": 20, "l1_penalty": 0.05}),
        "jumprelu": (JumpReluTrainer, {"sparsity_warmup_steps": 20, "target_l0": 5, "bandwidth": 0.01}),
        "topk": (TopKTrainer, top),
        "batchtopk": (BatchTopKTrainer, top),
        "matryoshka": (MatryoshkaBatchTopKTrainer, top | {"group_fractions": [0.25, 0.75]}),
    }
    data = batches()
    norm = float(torch.stack(data).square().sum(-1).mean().sqrt())
    for name, (kind, extra) in trainers.items():
        trainer = kind(**shared, **extra)
        for step, x in enumerate(data):
            trainer.update(step, x / norm)
        with torch.no_grad():
            trainer.ae.scale_biases(norm)
            folder = out / "dictionary_learning" / f"trained_{name}"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save({k: v.cpu() for k, v in trainer.ae.state_dict().items()}, folder / "ae.pt")
            (folder / "config.json").write_text(json.dumps({"trainer": trainer.config, "buffer": {}}, indent=2))
            codes = trainer.ae.encode(inputs())
            store(folder, codes, trainer.ae.decode(codes))


def make_sparsify(out: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(9)
    sae = SparseCoder(D, SparseCoderConfig(num_latents=F, k=K), device="cpu", dtype=torch.float32)
    fit(list(sae.parameters()), lambda x: sae(x).fvu)
    folder = out / "sparsify" / "trained" / "layers.3"
    sae.save_to_disk(folder)
    with torch.no_grad():
        store(folder, *sparsify_outputs(sae))


if __name__ == "__main__":
    makers = SimpleNamespace(saelens=make_saelens, dictionary_learning=make_dictionary_learning, sparsify=make_sparsify)
    getattr(makers, sys.argv[1])(Path(sys.argv[2]))
