"""A feature as something to take along: Markdown for notes, JSON for programs, Python that opens it again.

Must never know a page.
"""

import json
from dataclasses import asdict

from saelab.explore.material import FeatureMaterial
from saelab.explore.opened import Explored
from saelab.report.words import adaptive, percent, visible

TYPES = {"md": "text/markdown", "json": "application/json", "py": "text/x-python"}
SHOWN = 5


def copy_of(explored: Explored, sae: str, known: FeatureMaterial, kind: str) -> str:
    """The feature as md, json or py."""
    return {"md": _markdown, "json": _json, "py": _python}[kind](explored, sae, known)


def _markdown(explored: Explored, sae: str, known: FeatureMaterial) -> str:
    lines = [f"## {_plain(sae)} · feature {known.feature}", "", _plain(known.description or "no term stands out"), ""]
    lines.append(f"Active on {percent(known.density, 3)} of tokens, at most {adaptive(known.max_activation)}.")
    for name, placed in explored.interpretability(sae, known.feature).items():
        lines.append(f"- {name.replace('_', ' ')}: {adaptive(placed.value)}")
    lines += ["", f"Promotes {_tokens(known.promotes)}.", f"Suppresses {_tokens(known.suppresses)}.", ""]
    for context in [c for c in known.contexts if c.quantile == "top"][:SHOWN]:
        tokens = [_plain(t) for t in context.tokens]
        tokens[context.peak] = f"**{tokens[context.peak].strip()}**"
        lines.append(f"> {adaptive(context.activations[context.peak])} · {''.join(tokens).strip()}")
        lines.append(">")
    return "\n".join(lines[:-1] if lines[-1] == ">" else lines) + "\n"


def _plain(text: str) -> str:
    """Text that a reader of Markdown takes as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in visible(text))


def _tokens(scored: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"“{_plain(t)}”" for t, _ in scored[:8]) or "nothing that is known"


def _json(explored: Explored, sae: str, known: FeatureMaterial) -> str:
    one = explored.opened(sae)
    record = {"sae": one.reference, "site": one.site, "lm": one.lm, **asdict(known)}
    return json.dumps(record, ensure_ascii=False, indent=1)


def _python(explored: Explored, sae: str, known: FeatureMaterial) -> str:
    one = explored.opened(sae)
    return (
        "import saelab\n\n"
        f"sae = saelab.load_sae({one.reference!r})\n"
        f"direction = sae.W_dec[{known.feature}]  # {ascii(known.description or '')[1:-1]}\n"
    )
