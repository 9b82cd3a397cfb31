"""What was steered on a page, as something that does it again: Python, or the command line.

Must never know a page.
"""

from shlex import quote

from saelab.core.errors import UserError
from saelab.explore.session import Session
from saelab.explore.steer_live import Asked

KINDS = ("python", "command")


def recipe(session: Session, what: Asked, kind: str) -> str:
    """Python for all features at once; commands, one per SAE, as the command line moves one feature at a time."""
    if kind not in KINDS:
        raise UserError(f"A steering is not written as {kind!r}.", hint=f"There are {' and '.join(KINDS)}.")
    return _python(session, what) if kind == "python" else _command(session, what)


def _python(session: Session, what: Asked) -> str:
    tokens, temperature = what.sampling.max_new_tokens, what.sampling.temperature
    prompt = f"lm.chat({what.prompt!r})" if what.chat else f"lm.tokenize([{what.prompt!r}])[0]"
    lines = [
        "import torch",
        "",
        "import saelab",
        "from saelab.lm.edit import Add",
        "from saelab.lm.generate import Sampling",
        "",
        f"lm = saelab.LanguageModel.load({session.explored.lm_name!r})",
        f"ids = {prompt}",
        f"scales = torch.tensor({list(what.scales)!r})  # a row each; 0 is the text without steering",
        "edits = []",
        "for reference, feature, share in [",
        *(f"    ({session.explored.opened(t.sae).reference!r}, {t.feature}, {t.share!r})," for t in what.turns),
        "]:",
        "    sae = saelab.load_sae(reference)",
        "    norm = lm.capture([ids], [sae.cfg.site])[sae.cfg.site].norm(dim=-1).median()",
        "    moved = share * norm * torch.nn.functional.normalize(sae.W_dec[feature], dim=0)",
        "    edits.append(Add(sae.cfg.site, moved, scales))",
        f"sampling = Sampling(max_new_tokens={tokens}, temperature={temperature!r}, seed={what.sampling.seed!r})",
        "for scale, text in zip(scales.tolist(), lm.generate([ids] * len(scales), sampling, edits=edits)):",
        "    print(scale, text)",
    ]
    return "\n".join(lines) + "\n"


def _command(session: Session, what: Asked) -> str:
    lines = []
    for t in what.turns:
        far = " ".join(f"{scale * t.share:g}" for scale in what.scales if scale)
        lines.append(
            f"saelab steer {quote(session.explored.opened(t.sae).reference)} {t.feature} --prompt={quote(what.prompt)}"
            f" --strength {far} --unit norm --lm {quote(session.explored.lm_name)}"
            f" --max-new-tokens {what.sampling.max_new_tokens} --temperature {float(what.sampling.temperature):g}"
            + (" --chat" if what.chat else "")
        )
    if len(lines) > 1:
        lines.insert(0, "# The command line moves one feature at a time; for all at once take the Python.")
    return "\n".join(lines) + "\n"
