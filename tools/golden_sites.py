"""Golden dictionaries of several sites and sets of transcoders, written by the libraries whose layouts saelab reads.

    pip install torch==2.13.0 llamascopium==2.0.0b34          # library: llamascopium
    pip install torch==2.13.0 circuit-tracer==0.5.0           # library: circuit_tracer

    python tools/golden_sites.py LIBRARY tests/formats/golden_sites     # writes LIBRARY/CASE/ with io.safetensors

`io.safetensors` of a case holds x [N, S, D] (raw activations of the sites that are read) and the library's own codes
[N, B, F] and rebuilt [N, T, D] (raw again). Of a set of transcoders, S = B = T is the number of layers. Gemma Scope 2's
layout is written by hand and read by circuit-tracer, but for its last layer, which that loader drops. The script
imports nothing of saelab.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D, F, K, N, S = 12, 24, 4, 10, 3  # F: latents of one block


def drawn(*shape: int, seed: int, scale: float = 0.4) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs() -> torch.Tensor:
    """Raw activations, larger at later sites."""
    return drawn(N, S, D, seed=99, scale=1.0) * torch.tensor([1.0, 2.0, 3.5])[:, None]


def lively(module: torch.nn.Module) -> None:
    """Weights that leave no bias at zero and no gate trivial."""
    with torch.no_grad():
        for seed, (name, p) in enumerate(sorted(module.named_parameters())):
            if "log_jumprelu" in name:
                p.copy_(drawn(*p.shape, seed=seed).sub(0.5))
            elif "threshold" in name:
                p.copy_(drawn(*p.shape, seed=seed).abs())
            else:
                p.copy_(drawn(*p.shape, seed=seed, scale=0.3 if p.ndim > 2 or p.shape[-1] == p.shape[0] else 0.2))


def store(folder: Path, codes: torch.Tensor, rebuilt: torch.Tensor) -> None:
    tensors = {"x": inputs(), "codes": codes.detach(), "rebuilt": rebuilt.detach()}
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, folder / "io.safetensors")


def make_llamascopium(out: Path) -> None:
    from llamascopium import CLTConfig, CrosscoderConfig
    from llamascopium.models.clt import CrossLayerTranscoder
    from llamascopium.models.crosscoder import Crosscoder

    common: dict[str, Any] = {"d_model": D, "expansion_factor": F / D, "dtype": torch.float32, "device": "cpu"}
    hooks = [f"blocks.{n}.hook_resid_post" for n in (1, 4, 6)]
    cases: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    for act in ("relu", "jumprelu", "topk"):
        cases[f"crosscoder_{act}"] = (Crosscoder, CrosscoderConfig, {"hook_points": hooks, "act_fn": act})
    cases["crosscoder_folded"] = (
        Crosscoder,
        CrosscoderConfig,
        {"hook_points": hooks, "act_fn": "jumprelu"},
    )
    ends = {
        "hook_points_in": [f"blocks.{n}.ln2.hook_normalized" for n in range(S)],
        "hook_points_out": [f"blocks.{n}.hook_mlp_out" for n in range(S)],
    }
    for act in ("relu", "jumprelu", "topk", "layertopk"):
        cases[f"clt_{act}"] = (CrossLayerTranscoder, CLTConfig, ends | {"act_fn": act})
    plain = ends | {"act_fn": "jumprelu", "sparsity_include_decoder_norm": False}
    cases["clt_without_norms"] = (CrossLayerTranscoder, CLTConfig, plain)
    for name, (kind, config, extra) in cases.items():
        cfg = config(top_k=K, **common, **extra)
        module = kind(cfg)
        lively(module)
        module.set_current_k(K)
        norms = {hook: 2.0 + 0.7 * i for i, hook in enumerate(dict.fromkeys(cfg.associated_hook_points))}
        module.set_dataset_average_activation_norm(norms)
        folder = out / name
        module.save_pretrained(folder, fold_activation_scale=name.endswith("folded"))
        cfg.save_hyperparameters(folder)
        unit = {h: D**0.5 / norms[h] if cfg.norm_activation == "dataset-wise" else 1.0 for h in norms}
        s_in, s_out = (torch.tensor([unit[h] for h in hs])[:, None] for hs in (cfg.hooks_in, cfg.hooks_out))
        codes = module.encode(inputs() * s_in)
        rebuilt = module.decode(codes, batch_first=True) if "clt" in name else module.decode(codes)
        store(folder, codes, rebuilt / s_out)


def make_circuit_tracer(out: Path) -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_gemma_scope_2_clt
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    x = inputs()
    for name, gate, skip in (("set_relu", "relu", False), ("set_jumprelu_skip", "jumprelu", True)):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        codes, rebuilt = [], []
        for layer in range(S):
            act = torch.nn.functional.relu if gate == "relu" else JumpReLU(torch.zeros(F), 0.1)
            one = SingleLayerTranscoder(D, F, act, layer, skip_connection=skip, dtype=torch.float32)
            lively(one)
            with torch.no_grad():
                one.W_enc.mul_(1 + layer)
            one.to_safetensors(str(folder / f"layer_{layer}.safetensors"))
            codes.append(one.encode(x[:, layer]))
            rebuilt.append(one(x[:, layer]))
        store(folder, torch.stack(codes, 1), torch.stack(rebuilt, 1))
        write_yaml(folder, {"model_kind": "transcoder_set", "model_name": "google/gemma-2-2b", **hooks})
    for name, gate in (("clt_relu", "relu"), ("clt_jumprelu", "jump_relu")):
        folder = out / name
        clt = CrossLayerTranscoder(S, F, D, activation_function=gate, lazy_decoder=False, dtype=torch.float32, **hooks)
        lively(clt)
        clt.to_safetensors(str(folder))
        by_layer = x.transpose(0, 1)
        store(folder, clt.encode(by_layer).transpose(0, 1), clt.decode(clt.encode(by_layer)).transpose(0, 1))
        write_yaml(folder, {"model_kind": "cross_layer_transcoder", "model_name": "google/gemma-2-2b", **hooks})
    gemma_scope_2(out.parent / "gemma_scope_2" / "clt", load_gemma_scope_2_clt)


def gemma_scope_2(folder: Path, load: Any) -> None:
    """The layout by hand; circuit-tracer's loader reads all layers but the last, so a fourth one is held out to it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for layer in range(S + 1):
        shapes = {"w_enc": (D, F), "w_dec": (F, S, D), "b_enc": (F,), "b_dec": (D,), "affine_skip_connection": (D, D)}
        tensors = {n: drawn(*s, seed=50 * layer + i) for i, (n, s) in enumerate(shapes.items())}
        tensors["threshold"] = drawn(F, seed=50 * layer + 9).abs()
        tensors["w_dec"][:, :layer] = 0  # weakly causal
        path = folder / f"params_layer_{layer}.safetensors"
        save_file(tensors, path)
        paths[layer] = str(path)
    clt = load(paths, dtype=torch.float32)
    (folder / f"params_layer_{S}.safetensors").unlink()
    x = inputs().transpose(0, 1)
    codes = clt.encode(x)
    store(folder, codes.transpose(0, 1), clt.decode(codes, x).transpose(0, 1))
    hook = "model.layers.{all}.%s_feedforward_layernorm.output"
    config = {"architecture": "jump_relu", "type": "clt", "affine_connection": True, "width": S * F, "l0": 15}
    config |= {"hf_hook_point_in": hook % "pre", "hf_hook_point_out": hook % "post"}
    (folder / "config.json").write_text(json.dumps(config | {"model_name": "google/gemma-3-270m-pt"}))


def write_yaml(folder: Path, config: dict[str, str]) -> None:
    (folder / "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in config.items()))


MAKERS = {"llamascopium": make_llamascopium, "circuit_tracer": make_circuit_tracer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=sorted(MAKERS))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with torch.no_grad():
        MAKERS[given.library](given.folder / given.library)


if __name__ == "__main__":
    main()
