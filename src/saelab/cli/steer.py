"""`saelab steer`: what the model writes with and without features, at any strengths; their directions as a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from saelab.cli.models import model_for
from saelab.cli.output import say, show_record
from saelab.cli.parameters import SEVERAL
from saelab.core.errors import UserError


def steer(
    sae: str,
    index: list[int],
    *,
    prompt: str,
    strength: Annotated[list[float], SEVERAL],
    unit: Literal["raw", "norm", "kl"] | None = None,
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
    """Write a continuation without the features, and with each at each strength. The model is loaded once.

    Parameters
    ----------
    sae:
        Reference or folder of the SAE. Of a transcoder, or with REFERENCE#site of a dictionary of several sites, the
        latent's decoder row at the site that is written is the direction (add, subspace_clamp and ablate).
    index:
        Features.
    prompt:
        Text to continue, or an instruction with --chat.
    strength:
        How far along a feature's unit direction, in --unit; several after one another.
    unit:
        norm: shares of the median activation's norm (by default where a direction is added). raw: activation units (by
        default elsewhere). kl: nats of KL on neutral prefixes.
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
        Seed of the samples; every text draws the same.
    export:
        Write the directions at the one strength too: .safetensors, or .csv for lm-evaluation-harness's steered model.
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
    from saelab.steering import units
    from saelab.steering.directions.sae_feature import sae_feature
    from saelab.steering.edits import edit_of

    if export is not None and export.suffix not in (".safetensors", ".csv"):
        raise UserError(f"A direction is not exported as {export.suffix!r}.", hint="Name a .safetensors or .csv file.")
    if not all(map(math.isfinite, strength)):
        raise UserError(f"--strength must be finite numbers, not {', '.join(map(str, strength))}.")
    if export is not None and len(strength) > 1:
        raise UserError("A file holds directions at one strength.", hint="Give one --strength with --export.")
    found, site = opened(sae, site)
    if site is None:
        raise UserError("This SAE does not say at which site it was trained.", hint=without_site(sae))
    unit = unit or ("norm" if edit == "add" else "raw")
    directions = [units.raw(sae_feature(found, feature, 1.0)) for feature in index]
    model = model_for([found], lm)
    ids = model.chat(prompt) if chat else model.tokenize([prompt])[0]
    site = directions[0].site
    typical = float(model.capture([ids], [site])[site].norm(dim=-1).median())
    moved: list[tuple[Any, float]] = []
    for asked in strength:
        if unit == "kl":
            moved += [(d, d.strength(1.0)) for d in units.by_equal_kl(model, directions, asked)]
        else:
            scaled = [units.by_norm_share(d, typical) for d in directions] if unit == "norm" else directions
            moved += [(d, d.strength(asked)) for d in scaled]
    own = found if isinstance(found, Sae) else None  # only an SAE of this site can say what a code is
    vectors, distances = torch.stack([d.vector for d, _ in moved]), torch.tensor([far for _, far in moved])
    features = torch.tensor(index * len(strength))
    change = edit_of(edit, site, vectors, distances, positions, sae=own, features=features)
    draws = Sampling(max_new_tokens, temperature, Sampling(seed=seed).seeds(1) * len(moved))
    plain = model.generate([ids], Sampling(max_new_tokens, temperature, seed))[0]
    texts = model.generate([ids] * len(moved), draws, edits=[change])
    steered = [
        {"feature": f, "strength": far, "share": far / typical, "text": text}
        for f, (_, far), text in zip(features.tolist(), moved, texts, strict=True)
    ]
    where = f"{edit}, {_where(positions, len(ids))}, at {site}"
    record: dict[str, Any] = {"sae": sae, "site": site, "edited": where, "unsteered": plain, "steered": steered}
    if export is not None:
        at = [d.at_distance(far, f"{strength[0]:g} {unit}") for d, far in moved]
        _export(export, at, own, release or sae, sae_id)
        record["written"] = str(export)
    if json:
        show_record(record, as_json=True)
    else:
        _show(record, plain)
    return 0


def _show(record: dict[str, Any], plain: str) -> None:
    """Each text beneath what was done to it."""
    say(f"{record['sae']}: {record['edited']}")
    say(f"\nunsteered\n  {plain}")
    for row in record["steered"]:
        far = f"strength {row['strength']:.4g} ({row['share']:.2f} of a typical activation's norm)"
        same = "  (as unsteered: try a larger --strength)" if row["text"] == plain else ""
        say(f"\nfeature {row['feature']}, {far}{same}\n  {row['text']}")
    if "written" in record:
        say(f"\nwritten: {record['written']}")


def _where(positions: str, n: int) -> str:
    return {
        "all": f"all {n} prompt tokens and every new token",
        "prompt": f"the {n} prompt tokens",
        "generated": "every new token",
        "last": "the last prompt token",
    }[positions]


def _export(path: Path, directions: Sequence[Any], sae: Any, release: str, sae_id: str) -> None:
    """Write directions, of an SAE or None, to a file of either kind."""
    from saelab.steering.export import HarnessRow, save_directions, write_harness

    if path.suffix == ".safetensors":
        save_directions(path, {f"feature_{d.feature}": d for d in directions})
        return
    if sae is None:
        raise UserError("The harness loads SAEs, and this direction is of none.", hint="Name a .safetensors file.")
    name, loader = release.removeprefix("path:").removeprefix("hf:"), "sae_lens" if sae_id else "sparsify"
    rows = [
        HarnessRow(name, d.site, d.feature, d.distance / float(sae.W_dec[d.feature].norm()), sae_id, "", loader)
        for d in directions
        if d.feature is not None
    ]
    write_harness(path, rows)
