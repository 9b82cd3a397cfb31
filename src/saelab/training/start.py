"""The weights with which training goes on from a finished SAE: its own, in the units in which SAEs are trained.

Of an SAE only its weights are left, no state of its optimiser; so the learning rate warms up again. This file must
never know files.
"""

import torch

from saelab.core.errors import UserError
from saelab.saes.base import Sae, TrainConfig, Weights
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.formats.conventions import decoder_norms_folded, with_bias_convention
from saelab.training.inputs import Scaling

UNIT = 1e-3  # how far a decoder row's norm may be from that of the others where the largest codes are chosen


def trained_as(sae: Sae) -> list[str]:
    """Architectures whose training can go on from this SAE."""
    size = {"d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae}
    rules = {name: training_config(name, level=1, **size).rule(torch.float32) for name in ARCHITECTURES}
    return [name for name, rule in rules.items() if rule.finished is type(sae) and not sae.cfg.settings]


def start_misfit(sae: Sae, cfg: TrainConfig) -> str | None:
    """Why an SAE of this config cannot begin with the weights of `sae`; None where it can."""
    if cfg.d_out is not None:
        return "a transcoder begins with weights of its own"
    if cfg.freeze == "principal":
        return "with `freeze: principal` it begins with the principal directions"
    fits = trained_as(sae)
    if cfg.architecture not in fits:
        others = f" ({' and '.join(fits)} can)" if fits else ""
        return f"{cfg.architecture} cannot begin with an SAE that encodes as {sae.saelens_name}{others}"
    if (sae.cfg.d_in, sae.cfg.d_sae) != (cfg.d_in, cfg.d_sae):
        asked = f"what is trained has {cfg.d_sae:,} of width {cfg.d_in:,}"
        return f"it has {sae.cfg.d_sae:,} features of width {sae.cfg.d_in:,}, and {asked}"
    for name, weight in sae.weights().items():  # an infinite threshold is that of a latent which never fires
        if not bool((torch.isfinite(weight) | ((name == "threshold") & weight.isposinf())).all()):
            return f"its {name} holds values that are NaN or infinite"
    norms = sae.W_dec.norm(dim=1)
    if "k" in type(cfg).model_fields and float(norms.max()) > (1 + UNIT) * float(norms.min()):
        return "its decoder rows differ in norm, so with rows of norm 1 other codes would be the largest"
    return None


def started(sae: Sae, cfg: TrainConfig, scaling: Scaling) -> Weights:
    """The weights of `sae` as those of an SAE in training, on the device of the scaling.

    With x' = (x - m) / s they give the codes of `sae` divided by s. Raises `UserError` where `start_misfit` says why.
    """
    if why := start_misfit(sae, cfg):
        raise UserError(f"Training cannot begin with this SAE: {why}.")
    whole = with_bias_convention(sae, subtract=True).weights()
    rule, scale, norms = cfg.rule(torch.float32), scaling.scale, whole["W_dec"].norm(dim=1)
    raw = decoder_norms_folded(whole)
    weights = Weights(
        encoder=raw["W_enc"].T.contiguous().clone(),
        decoder=raw["W_dec"].clone(),
        b_enc=raw["b_enc"] / scale,
        b_dec=((raw["b_dec"].double() - scaling.mean.cpu().double()) / scale).float(),
    )
    own = {name: raw[name] * norms / scale if name in rule.scaled else raw[name].clone() for name in sae.extra}
    rule.resume(weights, own)
    return weights.to(scaling.mean.device)
