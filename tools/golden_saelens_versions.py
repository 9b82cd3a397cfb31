"""Golden SAEs of SAELens 0.5 to the newest, as each version wrote them: saved, and left by its training runner.

    pip install torch==2.13.0 transformer-lens==2.16.1 "transformers<5" "datasets<4" "pyarrow<19" plotly \
        simple-parsing python-dotenv tenacity nltk zstandard wandb einops        # one environment for all versions
    pip install --no-deps --target V sae-lens==VERSION                           # VERSIONS below, one folder each
    PYTHONPATH=V python tools/golden_saelens_versions.py tests/formats/golden/saelens

It writes OUT/vVERSION.CASE/ with the version's two files, what lay beside them and tells a scale, and `io.safetensors`
(x, the version's own codes in raw units and rebuilt). Its metadata say `input_scale` (what x was multiplied by in
training, where the files leave it out) and `refused` (a word of the reason, where saelab cannot open it). The language
model is a HookedTransformer of random weights, the text random tokens, and the runners are the versions' own. The
script imports nothing of saelab.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VERSIONS = ("0.5.1", "1.8.0", "2.1.3", "3.23.4", "4.4.5", "5.11.0", "6.0.0", "6.12.3", "6.54.12")
D, F, K, N = 8, 24, 3, 8
CONTEXT, VOCABULARY, BATCH, STEPS = 16, 50, 64, 40
# "scale" alone stops at a loss without a gradient in every version.
TUNED = {"finetuning_method": "decoder", "finetuning_tokens": BATCH * 20, "apply_b_dec_to_input": False}
HOOK = "blocks.3.hook_resid_post"
STATE = "activations_store_state.safetensors"
KEPT = ("cfg.json", "sae_weights.safetensors", "activation_scaler.json", STATE)


def inputs() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(99))


def lively(sae: torch.nn.Module, seed: int, *, finetuned: bool) -> None:
    """Weights that leave no bias at zero and no gate trivial; a factor that is not fine-tuned stays one."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(sae.named_parameters()):
            if "threshold" in name:
                p.copy_(torch.rand(p.shape, generator=g) * 0.8 + 0.05)
            elif "scaling_factor" in name:
                p.copy_(1 + torch.rand(p.shape, generator=g) * finetuned)
            else:
                p.copy_(torch.randn(p.shape, generator=g) * (0.3 if p.ndim == 1 else 0.5))


def language_model() -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    torch.manual_seed(5)
    shape = {"n_layers": 4, "d_model": D, "n_ctx": CONTEXT, "d_head": 4, "d_vocab": VOCABULARY}
    return HookedTransformer(HookedTransformerConfig(**shape, act_fn="gelu", init_weights=True, seed=5))


class Tokens:
    """A data set of random tokens, endless for every version's needs."""

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        g = torch.Generator().manual_seed(8)
        for _ in range(60000):
            yield {"tokens": torch.randint(1, VOCABULARY, (CONTEXT,), generator=g).tolist()}


class Version:
    """One version of SAELens: its classes, and how an SAE of it is made, saved, trained and run."""

    def __init__(self) -> None:
        import sae_lens
        import wandb

        wandb.util.generate_id = lambda: "run"  # the same files every time, and gone from newer wandb
        self.lens = sae_lens
        self.name: str = sae_lens.__version__
        self.era = int(self.name.split(".")[0])

    # ---- settings of a run: the versions' names for them ----

    def runner_config(self, **sae: Any) -> Any:
        old = self.era < 3
        run: dict[str, Any] = {
            "model_name": "gpt2",
            ("hook_point" if old else "hook_name"): HOOK.replace("3", "{layer}") if old else HOOK,
            "dataset_path": "tokens",
            "is_dataset_tokenized": True,
            "context_size": CONTEXT,
            "n_batches_in_buffer": 4,
            "training_tokens": BATCH * STEPS,
            "device": "cpu",
            "seed": 3,
            "dtype": "torch.float32" if old else "float32",
            "prepend_bos": False,
            "lr": 0.01,
            "lr_warm_up_steps": 0,
            "n_checkpoints": 2,
            "checkpoint_path": "checkpoints",
            "verbose": False,
            "dead_feature_window": 20,
            "feature_sampling_window": 30,
        }
        names = self.lens.LanguageModelSAERunnerConfig.__dataclass_fields__
        prompts = next(n for n in ("store_batch_size_prompts", "store_batch_size") if n in names)
        tokens = next(n for n in ("train_batch_size_tokens", "train_batch_size") if n in names)
        run |= {prompts: 8, tokens: BATCH, "adam_beta1": 0.0, "adam_beta2": 0.999}
        if old and sae.get("normalize_activations"):
            run |= {prompts: 64, "n_batches_in_buffer": 600}  # 1 and 2 estimate a scale from 300,000 tokens only
        if self.era < 6:
            run |= {("hook_point_layer" if old else "hook_layer"): 3, "log_to_wandb": False, "d_in": D}
            run |= {"expansion_factor": F // D} | sae
            if "l1_coefficient" not in sae:
                run |= {"l1_coefficient": 0.01}
            run |= {} if old else {"b_dec_init_method": sae.get("b_dec_init_method", "zeros")}
            return self.lens.LanguageModelSAERunnerConfig(**run)
        run |= {"logger": self.lens.LoggingConfig(log_to_wandb=False)}
        if "output_path" in names:
            run |= {"output_path": "output"}
        if "n_batches_for_norm_estimate" in names:
            run |= {"n_batches_for_norm_estimate": 20}
        kind = sae.pop("training")
        config = getattr(self.lens, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=F, dtype="float32", device="cpu", **sae)
        return self.lens.LanguageModelSAERunnerConfig(sae=config, **run)

    def train(self, **sae: Any) -> tuple[Any, float]:
        """Run the version's own runner, whose checkpoints lie in the working folder: the SAE, and its last scale."""
        scales = [1.0]
        store = self.lens.ActivationsStore
        if hasattr(store, "estimate_norm_scaling_factor"):
            store.estimate_norm_scaling_factor.__defaults__ = (20,)  # batches; the usual 1,000 take minutes

        def noted(this: Any, name: str, value: Any) -> None:
            if name == "estimated_norm_scaling_factor" and value is not None and float(value) != 1:
                scales.append(float(value))
            object.__setattr__(this, name, value)

        store.__setattr__ = noted
        cfg, model, tokens = self.runner_config(**sae), language_model(), Tokens()
        if self.era >= 3:
            name = "SAETrainingRunner" if hasattr(self.lens, "SAETrainingRunner") else "LanguageModelSAETrainingRunner"
            runner = getattr(self.lens, name)(cfg, override_dataset=tokens, override_model=model)
            trained = runner.run()
        else:
            from sae_lens.training import activations_store, session_loader

            model.tokenizer = SimpleNamespace(bos_token_id=0, padding_side="right")
            activations_store.load_dataset = lambda *args, **kwargs: tokens
            session_loader.load_model = lambda *args, **kwargs: model
            trained = next(iter(self.lens.language_model_sae_runner(cfg).autoencoders.values()))
        return trained, scales[-1]

    # ---- an SAE without a run ----

    def build(self, **sae: Any) -> Any:
        if self.era < 3:
            from sae_lens.training.sparse_autoencoder import SparseAutoencoder

            cfg = self.runner_config(**sae)
            cfg.hook_point = HOOK  # what its group fills in for each layer
            return SparseAutoencoder(cfg)
        if self.era < 6:
            cfg = {"architecture": "standard", "d_in": D, "d_sae": F, "activation_fn_str": "relu"}
            cfg |= {"apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "context_size": CONTEXT}
            cfg |= {"model_name": "gpt2", "hook_name": HOOK, "hook_layer": 3, "hook_head_index": None}
            cfg |= {"prepend_bos": True, "dataset_path": "tokens", "dataset_trust_remote_code": True}
            cfg |= {"normalize_activations": "none", "dtype": "float32", "device": "cpu"}
            cfg |= {"sae_lens_training_version": self.name} | sae
            return self.lens.SAE(self.lens.SAEConfig.from_dict(cfg))
        kind = sae.pop("kind")
        cfg = getattr(self.lens, f"{kind}SAEConfig")(d_in=D, d_sae=F, dtype="float32", device="cpu", **sae)
        cfg.metadata.hook_name, cfg.metadata.model_name = HOOK, "gpt2"
        return getattr(self.lens, f"{kind}SAE")(cfg)

    def opened(self, folder: Path) -> Any:
        """The SAE as the version opens it again."""
        if self.era < 3:
            from sae_lens.training.sparse_autoencoder import SparseAutoencoder

            if not self.name.startswith("0."):
                return SparseAutoencoder.load_from_pretrained(str(folder), device="cpu")
            # 0.5's own reading of its config is not in its constructor's terms: the same SAE, its weights put back.
            cfg = json.loads((folder / "cfg.json").read_text())
            sae = self.build(apply_b_dec_to_input=cfg["apply_b_dec_to_input"])
            sae.load_state_dict(load_file(folder / "sae_weights.safetensors"))
            return sae
        name = "load_from_disk" if self.era >= 5 else "load_from_pretrained"
        return getattr(self.lens.SAE, name)(str(folder), device="cpu")

    def finished(self, folder: Path, moment: str) -> Any:
        """The SAE of a run's folder; of a run that goes on, from 6 on, what it would finish as."""
        if self.era < 6 or moment == "final":
            return self.opened(folder)
        training = self.lens.TrainingSAE.load_from_disk(str(folder), device="cpu")
        with tempfile.TemporaryDirectory() as place:
            training.save_inference_model(place)
            return self.opened(Path(place))

    def outputs(self, sae: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sae.eval()
        with torch.no_grad():
            if self.name.startswith("0."):
                out = sae(x)
                return out.feature_acts, out.sae_out
            codes = sae.encode(x)
            return codes, sae.decode(codes)


# ---- cases ----------------------------------------------------------------------------------------------------------


def saved_cases(version: Version) -> dict[str, dict[str, Any]]:
    """What is set on an SAE that is saved without a run."""
    if version.era < 3:
        cases = {"standard": {}, "plain": {"apply_b_dec_to_input": False}, "finetuned": {"finetuning_method": "scale"}}
        return cases if version.name.startswith("0.") else cases | {"tanh": {"activation_fn": "tanh-relu"}}
    if version.era < 6:
        topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
        cases = {
            "standard": {},
            "plain": {"apply_b_dec_to_input": False},
            "gated": {"architecture": "gated"},
            "jumprelu": {"architecture": "jumprelu"},
            "standard_topk": topk,
            "layer_norm": {"normalize_activations": "layer_norm"},
            "norm_rescaled_topk": topk | {"normalize_activations": "constant_norm_rescale"},
            "finetuned": {"finetuning_scaling_factor": True},
            "bfloat16": {"dtype": "bfloat16"},
            "tanh": {"activation_fn_str": "tanh-relu"},
        }
        return cases if version.era < 4 else cases | {"topk": topk | {"architecture": "topk"}}
    cases = {"standard": {"kind": "Standard"}, "gated": {"kind": "Gated"}, "jumprelu": {"kind": "JumpReLU"}}
    return cases | {
        "topk": {"kind": "TopK", "k": K},
        "layer_norm": {"kind": "JumpReLU", "normalize_activations": "layer_norm"},
    }


def run_cases(version: Version) -> dict[str, dict[str, Any]]:
    """What is set in a run."""
    if version.era < 3:
        cases: dict[str, dict[str, Any]] = {"standard": {}, "finetuned": TUNED}
        return cases if version.name.startswith("0.") else cases | {"scaled": {"normalize_activations": True}}
    scaled = {"normalize_activations": "expected_average_only_in"}
    if version.era < 6:
        cases = {
            "standard": {},
            "gated": {"architecture": "gated", "normalize_sae_decoder": False},
            "scaled": scaled,
            "finetuned": TUNED,
            "noisy": {"noise_scale": 0.1},
        }
        if version.era == 3:
            return cases | {"standard_topk": {"activation_fn": "topk", "activation_fn_kwargs": {"k": K}}}
        cases["jumprelu"] = {"architecture": "jumprelu", "normalize_sae_decoder": False}
        cases["topk"] = {"architecture": "topk", "activation_fn_kwargs": {"k": K}, "normalize_sae_decoder": False}
        return cases
    cases = {"standard": {"training": "Standard", "l1_coefficient": 0.01}, "gated": {"training": "Gated"}}
    cases |= {"jumprelu": {"training": "JumpReLU"}, "topk": {"training": "TopK", "k": K}}
    cases |= {"scaled": {"training": "Standard", "l1_coefficient": 0.01} | scaled}
    if hasattr(version.lens, "BatchTopKTrainingSAE"):
        cases["batchtopk"] = {"training": "BatchTopK", "k": K, "topk_threshold_lr": 0.2}
    if hasattr(version.lens, "MatryoshkaBatchTopKTrainingSAE"):
        widths = {"k": K, "matryoshka_widths": [8, F], "topk_threshold_lr": 0.2}
        cases["matryoshka"] = {"training": "MatryoshkaBatchTopK"} | widths
    return cases


def store(version: Version, folder: Path, sae: Any, scale: float = 1.0, about: dict[str, str] | None = None) -> None:
    """The version's codes of `inputs()` in raw units, what they rebuild, and what the test must know besides."""
    x = inputs()
    codes, rebuilt = version.outputs(sae, x * scale)
    tensors = {"x": x, "codes": codes / scale, "rebuilt": rebuilt / scale}
    metadata = {"version": version.name} | (about or {})
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, folder / "io.safetensors", metadata)


def make_saved(version: Version, out: Path) -> None:
    for seed, (name, settings) in enumerate(saved_cases(version).items(), 100):
        torch.manual_seed(seed)
        sae = version.build(**settings)
        lively(sae, seed, finetuned=name == "finetuned")
        folder = out / f"v{version.name}.saved_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        sae.save_model(str(folder))
        if name == "bfloat16":  # the numbers of the file, reckoned in float32 as saelab does
            sae = sae.float()
            sae.dtype = torch.float32
        elif name != "finetuned" and version.era > 0:
            sae = version.opened(folder)
        store(version, folder, sae, about={"refused": "activation function"} if name == "tanh" else {})


def make_run(version: Version, out: Path) -> None:
    here = Path.cwd()
    for name, settings in run_cases(version).items():
        torch.manual_seed(11)
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            trained, estimated = version.train(**settings)
            for moment, checkpoint in checkpoints(Path(place)).items():
                if moment == "midway" and version.era < 6 and name != "scaled":
                    continue  # the same layout as the last one
                folder = out / f"v{version.name}.run_{name}_{moment}"
                folder.mkdir(parents=True, exist_ok=True)
                for kept in KEPT:
                    if (checkpoint / kept).is_file():
                        shutil.copy(checkpoint / kept, folder)
                trim(folder / STATE)
                folded = moment == "final" and version.era >= 3
                scale = 1.0 if folded else written_scale(checkpoint) or estimated
                asked = {"input_scale": str(scale)} if name == "scaled" and version.era < 5 else {}
                # From 3 on no version opens what it fine-tuned: its config does not say that there is a factor.
                sae = trained if name == "finetuned" else version.finished(folder, moment)
                store(version, folder, sae, scale, asked)
            os.chdir(here)


def checkpoints(place: Path) -> dict[str, Path]:
    """The folders that a run left: the last one before its end, and the one at its end."""
    found = {path.parent.relative_to(place).parts: path.parent for path in place.rglob("cfg.json")}
    midway = max(
        (parts for parts in found if parts[0] == "checkpoints" and parts[2].isdigit()), key=lambda p: int(p[2])
    )
    final = next(parts for parts in found if parts[0] == "output" or parts[2].startswith("final"))
    return {"midway": found[midway], "final": found[final]}


def written_scale(checkpoint: Path) -> float | None:
    """The scale that lies beside the weights of a run that goes on (from 5 on)."""
    if (checkpoint / "activation_scaler.json").is_file():
        return json.loads((checkpoint / "activation_scaler.json").read_text())["scaling_factor"] or 1.0
    state = load_file(checkpoint / STATE) if (checkpoint / STATE).is_file() else {}
    return float(state["estimated_norm_scaling_factor"]) if "estimated_norm_scaling_factor" in state else None


def trim(path: Path) -> None:
    """The run's buffer of activations is many times the SAE, and only the numbers beside it are read."""
    if path.is_file():
        save_file({k: v for k, v in load_file(path).items() if v.ndim == 0}, path)


MAKERS: tuple[Callable[[Version, Path], None], ...] = (make_saved, make_run)


def main(out: Path) -> None:
    version = Version()
    for make in MAKERS:
        make(version, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
