"""What saelab does with every causal language model that transformers ships: the lists in docs/lm.md.

    python tools/lm_families.py                    # outcomes, one family a line (minutes)
    python tools/lm_families.py --write docs/lm.md  # the same, in place of the lists in the page

Each family's default config is made small, a model with random weights is built from it and proved as at load. No
weights are fetched.
"""

import argparse
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saelab.core.errors import SaelabError
from saelab.lm.blocks import Decoder
from saelab.lm.loading import quiet
from saelab.lm.proofs import proved
from saelab.lm.shrink import lively_model, small_config

LARGE = 30_000_000  # parameters: what is not made small by now is not built here
BEGIN, END = "<!-- families: made by tools/lm_families.py -->", "<!-- families end -->"
KINDS = {  # the outcome, and how the page says it
    "whole": "**Equal in everything**: whole passes, left-padded batches, kept keys and values, restarts",
    "limited": "**Equal in whole passes, and refused by name in some others**",
    "refused": "**Refused at load**",
    "unbuilt": "**Not tried**: no small model could be built from its default config",
}


def families() -> list[str]:
    """The model types that transformers has a causal model for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build(family: str) -> Any:
    """A small random model of a family. Raises whatever its config or model raises, `ValueError` where it is large."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = small_config(AutoConfig.for_model(family))
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if size > LARGE:
            raise ValueError(f"it stays at {size / 1e6:,.0f} million parameters")
        return lively_model(config)


def outcome(family: str) -> tuple[str, str, Decoder | None]:
    """One of `KINDS`, with its reason, and the decoder where there is one."""
    try:
        model = build(family)
    except Exception as error:  # transformers' own, of any kind: all mean "not built"
        return "unbuilt", _line(error), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoder = proved(model)
        except SaelabError as error:
            return "refused", error.message, None
    limits = vars(decoder.limits)
    reason = "; ".join(f"{name}: {why}" for name, why in limits.items() if why)
    return ("limited", reason, decoder) if reason else ("whole", "", decoder)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"


def page(found: dict[str, tuple[str, str]]) -> Iterator[str]:
    """The lists in Markdown."""
    for kind, title in KINDS.items():
        names = [name for name, (k, _) in found.items() if k == kind]
        yield f"{title} ({len(names)}):" if names else ""
        if kind == "whole":
            yield _wrap(", ".join(f"`{n}`" for n in names) + ".", "")
            continue
        by: dict[str, list[str]] = {}
        for name in names:
            by.setdefault(_plainly(found[name][1], name), []).append(name)
        yield "\n".join(_wrap(f"- {', '.join(f'`{n}`' for n in who)}: {why}", "  ") for why, who in by.items())


def _plainly(reason: str, name: str) -> str:
    """The reason without the family's name and numbers of the run, so that equal reasons meet; escaped for the page."""
    reason = re.sub(rf"\b{re.escape(name)} ", "", reason)
    reason = re.sub(r", by [0-9.e+-]+|0x[0-9a-f]+", "", reason).rstrip(".")
    return reason.replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families (default: all)")
    parser.add_argument("--write", type=Path, help="a page whose lists are replaced")
    options = parser.parse_args()
    found = {}
    for name in options.names or families():
        kind, reason, _ = outcome(name)
        found[name] = (kind, reason)
        print(f"{name:28} {kind:8} {reason}", flush=True)
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        lists = "\n\n".join(part for part in page(found) if part)
        options.write.write_text(f"{text[:begin]}\n\n{lists}\n\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
