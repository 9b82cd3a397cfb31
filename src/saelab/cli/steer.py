"""`saelab steer`: what the model writes with and without one feature, where it was edited; the direction as a file."""

from pathlib import Path
from typing import Literal

from saelab.cli.models import model_for
from saelab.cli.output import say, show_record
from saelab.core.errors import UserError


def steer(
    sae: str,
    index: int,
    *,
    prompt: str,
    strength: float,
    unit: Literal["raw", "norm", "kl"] = "raw",
    lm: str | None = None,
    site: str | None = None,
    chat: bool = False,
    edit: Literal["add", "clamp", "min_clamp", "subspace_clamp", "ablate"] = "add",
    positions: Literal["all", "prompt", "generated", "last"] = "all",
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    export: Path | None = None,
    release: str | None = None,
    sae_id: str = "",
    json: bool = False,
) -> int:
    """Write a continuation without the feature and with it.

    Parameters
    ----------
    sae:
        Reference or folder of the SAE. Of a transcoder, or with REFERENCE#site of a dictionary of several sites, the
        latent's decoder row at the site that is written is the direction (add, subspace_clamp and ablate).
    index:
        Feature.
    prompt:
        Text to continue, or an instruction with --chat.
    strength:
        How far along the feature's unit direction, in --unit.
    unit:
        raw: activation units. norm: shares of the median activation's norm. kl: nats of KL on neutral prefixes.
    lm:
        Language model: short name or reference; by default the one that the SAE names.
    site:
        Where the SAE reads, if its files do not say; of a dictionary of several sites, which one is steered.
    chat:
        Put the prompt into the model's chat template.
    edit:
        How the direction changes the stream (add the strength, clamp the code to it, or ablate).
    positions:
        Positions that are edited.
    max_new_tokens:
        Longest continuation.
    temperature:
        Sampling temperature; 0 is greedy.
    seed:
        Seed of the samples.
    export:
        Write the direction too: .safetensors, or .csv for lm-evaluation-harness's steered model.
    release:
        What the harness loads the SAE by (for .csv): an sae_lens release, or a sparsify folder or hub name.
    sae_id:
        The SAE's id in the sae_lens release (for .csv).
    json:
        Print JSON.
    """
    import math

    import torch

    from saelab.cli.references import opened, without_site
    from saelab.lm.generate import Sampling
    from saelab.saes.base import Sae
    from saelab.steering import strength as strengths
    from saelab.steering.directions.sae_feature import sae_feature
    from saelab.steering.edits import edit_of

    if export is not None and export.suffix not in (".safetensors", ".csv"):
        raise UserError(f"A direction is not exported as {export.suffix!r}.", hint="Name a .safetensors or .csv file.")
    if not math.isfinite(strength):
        raise UserError(f"--strength must be a finite number, not {strength}.")
    found, site = opened(sae, site)
    if site is None:
        raise UserError("This SAE does not say at which site it was trained.", hint=without_site(sae))
    direction = strengths.raw(sae_feature(found, index, 1.0))
    model = model_for([found], lm)
    ids = model.chat(prompt) if chat else model.tokenize([prompt])[0]
    typical = float(model.capture([ids], [direction.site])[direction.site].norm(dim=-1).median())
    if unit == "norm":
        direction = strengths.by_norm_share(direction, typical)
    if unit == "kl":
        direction = strengths.by_equal_kl(model, [direction], strength)[0]
    distance = direction.strength(1.0 if unit == "kl" else strength)
    own = found if isinstance(found, Sae) else None  # only an SAE of this site can say what a code is
    vectors, features = direction.vector[None], torch.tensor([index])
    change = edit_of(edit, direction.site, vectors, torch.tensor([distance]), positions, sae=own, features=features)
    plain, steered = (
        model.generate([ids], Sampling(max_new_tokens, temperature, seed), edits=edits)[0] for edits in ((), (change,))
    )
    record = {
        "feature": f"{sae} {site} {index}",
        "edited": f"{edit}, {_where(positions, len(ids))}, at {site}",
        "strength": f"{distance:.4g} ({distance / typical:.2f} of a typical activation's norm)",
        "unsteered": plain,
        "steered": steered,
    }
    if export is not None:
        _export(export, direction.referenced(distance, f"{strength:g} {unit}"), own, release or sae, sae_id)
        record["written"] = str(export)
    show_record(record, as_json=json)
    if not json and plain == steered:
        say("The text did not change; try a larger --strength.")
    return 0


def _where(positions: str, n: int) -> str:
    return {
        "all": f"all {n} prompt tokens and every new token",
        "prompt": f"the {n} prompt tokens",
        "generated": "every new token",
        "last": "the last prompt token",
    }[positions]


def _export(path: Path, direction: object, sae: object, release: str, sae_id: str) -> None:
    from saelab.saes.base import Sae
    from saelab.steering.direction import Direction
    from saelab.steering.export import HarnessRow, save_directions, write_harness

    assert isinstance(direction, Direction) and direction.feature is not None
    if path.suffix == ".safetensors":
        save_directions(path, {f"feature_{direction.feature}": direction})
        return
    if not isinstance(sae, Sae):
        raise UserError("The harness loads SAEs, and this direction is of none.", hint="Name a .safetensors file.")
    coefficient = direction.reference / float(sae.W_dec[direction.feature].norm())
    name, loader = release.removeprefix("path:").removeprefix("hf:"), "sae_lens" if sae_id else "sparsify"
    write_harness(path, [HarnessRow(name, direction.site, direction.feature, coefficient, sae_id, "", loader)])
