"""`saelab steer`: what the model writes with and without one feature, and where it was edited."""

from typing import Literal

from saelab.cli.output import say, show_record
from saelab.core.errors import UserError


def steer(
    sae: str,
    index: int,
    *,
    prompt: str,
    strength: float,
    lm: str = "smollm2-135m",
    chat: bool = False,
    positions: Literal["all", "prompt", "generated", "last"] = "all",
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Write a continuation without the feature and with it.

    Parameters
    ----------
    sae:
        Reference or folder of the SAE.
    index:
        Feature.
    prompt:
        Text to continue, or an instruction with --chat.
    strength:
        Multiple of the feature's unit direction that is added, in activation units.
    lm:
        Language model: short name or reference.
    chat:
        Put the prompt into the model's chat template.
    positions:
        Positions that are edited.
    max_new_tokens:
        Longest continuation.
    temperature:
        Sampling temperature; 0 is greedy.
    seed:
        Seed of the samples.
    json:
        Print JSON.
    """
    import saelab
    from saelab.lm.edit import Add

    model, opened = saelab.LanguageModel.load(lm), saelab.load_sae(sae)
    if not 0 <= index < opened.cfg.d_sae:
        raise UserError(f"Feature {index} does not exist.", hint=f"The SAE has features 0 to {opened.cfg.d_sae - 1}.")
    if opened.cfg.site is None:
        raise UserError("This SAE does not say at which site it was trained.", hint="saelab inspect can find it.")
    ids = model.chat(prompt) if chat else model.tokenize([prompt])[0]
    vector = opened.W_dec[index] / opened.W_dec[index].norm()
    edit = Add(opened.cfg.site, vector, strength=strength, positions=positions)
    plain, steered = (
        model.generate([ids], edits=edits, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)[0]
        for edits in ((), (edit,))
    )
    typical = float(model.capture([ids], [opened.cfg.site])[opened.cfg.site].norm(dim=-1).median())
    edited = {
        "all": f"all {len(ids)} prompt tokens and every new token",
        "prompt": f"the {len(ids)} prompt tokens",
        "generated": "every new token",
        "last": "the last prompt token",
    }[positions]
    record = {
        "feature": f"{sae} {opened.cfg.site} {index}",
        "edited": f"{edited}, at {opened.cfg.site}",
        "strength": f"{strength:g} ({strength / typical:.2f} of a typical activation's norm)",
        "unsteered": plain,
        "steered": steered,
    }
    show_record(record, as_json=json)
    if not json and plain == steered:
        say("The text did not change; try a larger --strength.")
    return 0
