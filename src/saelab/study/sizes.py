"""How large a language model is, from its name alone: for plans and progress bars, never for results."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class LmSize:
    """Parameters and width of the residual stream; known: False where they were guessed from the name."""

    parameters: float
    d_model: int
    known: bool = True


BASE = LmSize(135e6, 576)  # SmolLM2-135M, for which the seconds of study/plan.py were measured
KNOWN = {
    "smollm2-135m": BASE,
    "gemma3-270m": LmSize(268e6, 640),
    "gemma-2-2b": LmSize(2.6e9, 2304),
    "qwen2.5-3b": LmSize(3.1e9, 2048),
    "qwen2.5-coder-1.5b": LmSize(1.5e9, 1536),
    "gemma-2-9b": LmSize(9.2e9, 3584),
}


def size_of(lm: str) -> LmSize:
    """The size of a model by short name or reference: the longest known name in it, else `1.5b` or `135m` in it."""
    name = lm.split("@")[0].lower()
    known = [k for k in KNOWN if k in name]
    if known:
        return KNOWN[max(known, key=len)]
    found = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name)
    if found is None:
        return LmSize(BASE.parameters, BASE.d_model, known=False)
    parameters = float(found[1]) * (1e9 if found[2] == "b" else 1e6)
    # width goes about with the cube root of the parameters
    return LmSize(parameters, round(BASE.d_model * (parameters / BASE.parameters) ** (1 / 3)), known=False)
