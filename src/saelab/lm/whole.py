"""Whether the files of a model hold its weights, all of them and no others.

transformers draws what a file lacks at random and drops what it has no place for, and says so in its log at most. Here
both are refused, but for what belongs to no text: heads of other tasks, towers of images and sound. This module knows
nothing of how files are opened.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from saelab.core.errors import ArtefactError

# Parts of larger models, above their numbered blocks, that predicting the next token does not need.
_OTHERS = re.compile(
    r"(^|[._])(vision|visual|audio|speech|image|img|multi_modal|mm|vit|resampler)([._]|$)"
    r"|(^|\.)(score|classifier|qa_outputs|v_head|value_head|summary|pooler|nsp|cls|mtp\w*)(\.|$)"
)
# Masks and tables that older files keep; they are made anew from the config.
_MADE = re.compile(r"((attn|attention)\.(masked_)?bias|causal_mask|inv_freq|position_ids)$")
_SHOWN = 3


def check_whole(model: Any, info: Mapping[str, Any], reference: str, *, quantised: bool = False) -> None:
    """Raise an `ArtefactError` where tensors are missing, or left over, after transformers loaded a model.

    info: what `from_pretrained(output_loading_info=True)` says. quantised: what lies beside a known weight (scales,
    zero points) is its quantiser's affair.
    """
    missing = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if missing:
        head = model.get_output_embeddings()
        names = dict(model.named_parameters())
        only_head = head is not None and all(names.get(name) is head.weight for name in missing)
        raise ArtefactError(
            f"The weights of {reference} lack {some(missing)}, which would be random numbers.",
            hint="It was saved without its head: save the causal model itself (AutoModelForCausalLM)."
            if only_head
            else "Save the model whole, and with the names that transformers gives its tensors.",
        )
    left = {name for name in info["unexpected_keys"] if not _belongs_elsewhere(name)}
    if quantised:
        modules = {name for name, _ in model.named_modules()}
        left = {name for name in left if name.rpartition(".")[0] not in modules}
    refuse_left(left, reference)


def refuse_left(names: Iterable[str], reference: str) -> None:
    """Raise an `ArtefactError` where tensors of a file have no place in its model."""
    if left := set(names):
        raise ArtefactError(
            f"The weights of {reference} hold {some(left)}, and the model of its config has no place for them.",
            hint="The config is another's, or of fewer layers, or the weights are quantised in an unknown way.",
        )


def _belongs_elsewhere(name: str) -> bool:
    above = re.split(r"\.\d+(?=\.|$)", name, maxsplit=1)[0]
    return bool(_OTHERS.search(above) or _MADE.search(name))


def some(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
