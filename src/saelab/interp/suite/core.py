"""SAEBench's `core` (0.6.0): the LM under substitution, reconstruction, shrinkage, sparsity, densities, geometry.

    ce_loss_score = (CE_zero - CE_sae) / (CE_zero - CE_clean)          kl_div_score = (KL_zero - KL_sae) / KL_zero

CE in nats per token; KL of the changed next-token distribution from the clean one. As there: every position that is not
special is spliced and counted, sinks and document ends included (fidelity leaves both out), and zero ablation
strikes every position. `explained_variance` is 1 - E||x - xh||^2 / V with V = S - (S/d)^2, S = E||x||^2, which is no
variance: the field is there for parity, `fraction_variance_explained` (1 - FVU) and `ce_loss_score_mean_ablation`
stand beside it. A figure that does not exist is None here. Knows no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from saelab.activations.site import Recode, Restartable, SitePass, spliced, spliced_ce
from saelab.core.config import Config
from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.suite.config import Preset
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.result import Metrics, Result
from saelab.lm.score import following_nll
from saelab.saes.base import Sae

KIND = "core"
DEVIATIONS = (
    "text packed here: BOS, then documents with a separator",
    "densities and frac_alive on the harvested text, everything else on held-out text",
)


class CoreConfig(Config):
    """How much text; batches matter because `mse` is divided by the tokens of one."""

    contexts: int = Field(default=64, ge=1, description="Held-out contexts.")
    batch_size_prompts: int = Field(default=16, ge=1, description="Contexts of a batch in the sense of `mse`.")
    details: bool = Field(default=True, description="Whether every latent gets its row.")


PRESETS: Mapping[Preset, CoreConfig] = {
    "paper": CoreConfig(contexts=3200),
    "small": CoreConfig(contexts=64),
    "tiny": CoreConfig(contexts=8, batch_size_prompts=4),
}


@dataclass(frozen=True)
class CorePass:
    """What the SAEs of a site share: the activations with the positions that count, and what ablation does."""

    clean: SitePass
    ce_clean: float
    ce_zero: float
    ce_mean: float
    kl_zero: float


def read_core(lm: Restartable, clean: SitePass, special: frozenset[int], contexts: int) -> CorePass:
    """From a clean pass to the baselines of a site. special: ids that never count."""
    part = clean.take(slice(contexts))
    ordinary = ~torch.isin(part.tokens, torch.tensor(sorted(special)))
    counted = replace(part, kept=ordinary, scored=ordinary, batch_size=4)
    mean = counted.rows.mean(0)
    zero_ce, zero_kl = substituted(lm, replace(counted, kept=torch.ones_like(ordinary)), torch.zeros_like)
    mean_ce = spliced_ce(lm, counted, lambda x: mean.expand_as(x))
    return CorePass(counted, spliced_ce(lm, counted, None), zero_ce, mean_ce, zero_kl)


def substituted(lm: Restartable, clean: SitePass, recode: Recode) -> tuple[float, float]:
    """(CE, KL from the clean model) with `recode` in place of the kept activations, means over scored positions.

    KL counts the last position too, which has no next token.
    """
    nll, kl = [], []
    with torch.inference_mode():
        for contexts, after in spliced(lm, clean, recode):
            counted = clean.scored[contexts]
            nll.append(following_nll(after, clean.tokens[contexts], counted))
            before = clean.logits(lm, contexts)
            for i, use in enumerate(counted):
                p, q = (logits[i].float().log_softmax(-1).cpu() for logits in (before, after))
                kl.append((p.exp() * (p - q)).sum(-1)[use])
    return float(torch.cat(nll).double().mean()), float(torch.cat(kl).double().mean())


def evaluate(
    lm: Restartable, core: CorePass, sae: Sae, config: CoreConfig, text: tuple[Codes, int] | None = None
) -> Result:
    """All categories of one SAE.

    text: its codes on the text on which densities are counted, and that text's context; None counts them on the same.
    """
    clean = core.clean
    ce, kl = substituted(lm, clean, lambda x: sae.decode(sae.encode(x)))
    quality = reconstruction(sae, clean, config.batch_size_prompts)
    if text is None:
        places = clean.kept.flatten().nonzero()[:, 0].numpy()
        text = encode_codes(sae.encode, clean.rows, places), clean.tokens.shape[1]
    density, consistent = counted_densities(*text)
    geometry = weight_geometry(sae)
    n = clean.tokens.numel()
    metrics: dict[str, Metrics] = {
        "model_behavior_preservation": {
            "kl_div_score": _share(core.kl_zero - kl, core.kl_zero),
            "kl_div_with_ablation": core.kl_zero,
            "kl_div_with_sae": kl,
        },
        "model_performance_preservation": {
            "ce_loss_score": _share(core.ce_zero - ce, core.ce_zero - core.ce_clean),
            "ce_loss_with_ablation": core.ce_zero,
            "ce_loss_with_sae": ce,
            "ce_loss_without_sae": core.ce_clean,
            "ce_loss_score_mean_ablation": _share(core.ce_mean - ce, core.ce_mean - core.ce_clean),
            "ce_loss_increase": ce - core.ce_clean,
        },
        **quality,
        "token_stats": {"total_tokens_eval_reconstruction": n, "total_tokens_eval_sparsity_variance": n},
        "misc_metrics": _summary_of(density, geometry),
    }
    per_latent = {"feature_density": density, "consistent_activation_heuristic": consistent} | geometry
    details = _details(per_latent) if config.details else []
    own = {
        "contexts": len(clean.tokens),
        "n_eval_reconstruction_batches": -(-len(clean.tokens) // config.batch_size_prompts),
    }
    return Result(KIND, metrics, config.model_dump() | own | {"deviations": list(DEVIATIONS)}, details)


def reconstruction(sae: Sae, clean: SitePass, batch: int) -> dict[str, Metrics]:
    """The categories reconstruction_quality, shrinkage and sparsity, as coded there, plus the true share explained."""
    tokens: dict[str, list[Tensor]] = {}
    batches: dict[str, list[float]] = {}
    x_all = clean.rows.double()
    error_all, variance = 0.0, float((x_all - x_all.mean(0)).square().sum())
    with torch.inference_mode():
        for start in range(0, len(clean.tokens), batch):
            x = clean.take(slice(start, start + batch)).rows
            f = sae.encode(x)
            x, xh = x.double(), sae.decode(f).double()
            error, norm, out = (x - xh).square().sum(-1), x.norm(dim=-1), xh.norm(dim=-1)
            dot = (x * xh).sum(-1)
            centred = (x - x.mean(0)).square().sum(-1)
            row = {
                "l0": (f != 0).sum(-1).double(),
                "l1": f.double().sum(-1),
                "l2_norm_in": norm,
                "l2_norm_out": out,
                "l2_ratio": out / torch.where(norm < 1e-4, 1.0, norm),
                "mse": error / len(x),
                "cossim": dot / (norm * out).clamp_min(1e-30),
                "explained_variance_legacy": 1 - error / centred,
            }
            for name, values in row.items():
                tokens.setdefault(name, []).append(values)
            power = float(x.square().sum(-1).mean())
            for name, value in (("error", float(error.mean())), ("power", power)):
                batches.setdefault(name, []).append(value)
            batches.setdefault("bias", []).append(float(out.square().mean() / dot.mean()))
            error_all += float(error.sum())
    mean = {name: float(torch.cat(values).mean()) for name, values in tokens.items()}
    error, power, bias = (sum(v) / len(v) for v in (batches["error"], batches["power"], batches["bias"]))
    as_coded = power - (power / clean.hidden.shape[-1]) ** 2
    return {
        "reconstruction_quality": {
            "explained_variance": _share(as_coded - error, as_coded),
            "explained_variance_legacy": mean["explained_variance_legacy"],
            "mse": mean["mse"],
            "cossim": mean["cossim"],
            "fraction_variance_explained": _share(variance - error_all, variance),
        },
        "shrinkage": {k: mean[k] for k in ("l2_norm_in", "l2_norm_out", "l2_ratio")}
        | {"relative_reconstruction_bias": bias if abs(bias) < float("inf") else None},
        "sparsity": {"l0": mean["l0"], "l1": mean["l1"]},
    }


def counted_densities(codes: Codes, context: int) -> tuple[list[float | None], list[float | None]]:
    """Per latent: share of rows on which it is active, and active rows per context with any (None without one)."""
    active, owner, where = codes.counts(), codes.features(), codes.places // context
    # Places ascend within a latent, so a context is new where it or the latent differs from the one before.
    fresh = np.ones(len(owner), bool)
    fresh[1:] = (np.diff(owner) != 0) | (np.diff(where) != 0)
    contexts = np.bincount(owner[fresh], minlength=codes.n_features)
    density = (torch.from_numpy(active).float() / codes.n_rows).tolist()
    return density, [a / c if c else None for a, c in zip(active.tolist(), contexts.tolist(), strict=True)]


def weight_geometry(sae: Sae, block: int = 512) -> dict[str, list[float]]:
    """Per latent: encoder bias and norm, cosine of encoder and decoder, largest cosine with another of either."""
    weights = sae.weights()
    encoder, decoder = (torch.nn.functional.normalize(w, dim=1) for w in (sae.W_enc.T, sae.W_dec))

    def nearest(unit: Tensor) -> list[float]:
        found = []
        for start in range(0, len(unit), block):
            cosines = unit[start : start + block] @ unit.T
            cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -float("inf")
            found.append(cosines.max(1).values)
        return torch.cat(found).tolist()

    return {
        # a gated SAE's magnitude path stands in for its encoder bias
        "encoder_bias": weights.get("b_mag", sae.b_enc).tolist(),
        "encoder_norm": sae.W_enc.norm(dim=0).tolist(),
        "encoder_decoder_cosine_sim": (encoder * decoder).sum(1).tolist(),
        "max_decoder_cosine_sim": nearest(decoder),
        "max_encoder_cosine_sim": nearest(encoder),
    }


def _summary_of(density: list[float | None], geometry: Mapping[str, list[float]]) -> Metrics:
    d = torch.tensor([x or 0.0 for x in density], dtype=torch.float64)
    total = float(d.sum())
    found: Metrics = {}
    for percent, bound in ((1, 0.01), (10, 0.1)):
        found[f"freq_over_{percent}_percent"] = float((d > bound).double().mean())
    for percent, bound in ((1, 0.01), (10, 0.1)):
        found[f"normalized_freq_over_{percent}_percent"] = float(d[d > bound].sum()) / total if total else None
    for side in ("encoder", "decoder"):
        values = geometry[f"max_{side}_cosine_sim"]
        found[f"average_max_{side}_cosine_sim"] = sum(values) / len(values)
    return found | {"frac_alive": float((d > 0).double().mean())}


def _details(per_latent: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    rows = zip(*per_latent.values(), strict=True)
    return [
        {"index": i} | {k: None if v is None else round(v, 10) for k, v in zip(per_latent, row, strict=True)}
        for i, row in enumerate(rows)
    ]


def _share(part: float, whole: float) -> float | None:
    return part / whole if abs(whole) > 1e-12 else None


def _prepare(site: SiteSuite) -> CorePass:
    text, contexts = site.text, PRESETS[site.config.preset].contexts
    return read_core(text.lm, text.clean, text.special, contexts)


def _evaluate(subject: Subject, shared: CorePass) -> Result:
    text, config = subject.site.text, PRESETS[subject.site.config.preset]
    return evaluate(text.lm, shared, subject.sae, config, (subject.codes, text.clean.tokens.shape[1]))


EVALUATION = Evaluation(
    KIND,
    PRESETS,
    prepare=_prepare,
    evaluate=_evaluate,
    saebench=SaebenchFile(
        "core",
        demanded=(
            "model_behavior_preservation",
            "model_performance_preservation",
            "reconstruction_quality",
            "shrinkage",
            "sparsity",
            "token_stats",
            "misc_metrics",
        ),
        filled=("*",),
    ),
)
