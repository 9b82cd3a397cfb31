"""The three edits whose effect is measured, for many features of one SAE at once.

At a position with activation x and code z = encode(x), for feature f with decoder row v_f:

- `add`      x + alpha * v_f                     (default; arXiv 2510.03659's main text, arXiv 2505.20063)
- `scale`    x + (alpha - 1) * z_f * v_f         (the code multiplied by alpha, the others and the error kept)
- `replace`  b_dec + alpha * z_f * v_f           (decode of f alone, its code multiplied; 2510.03659's Appendix D)

`scale` does nothing and `replace` forgets everything where f is silent. Pure tensor functions: no language model here.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError, nearest

Edit = Literal["add", "scale", "replace"]


def check_edit(edit: str) -> None:
    """A `UserError` unless `edit` is one of the three."""
    if edit not in get_args(Edit):
        raise UserError(f"There is no edit {edit!r}.", hint=nearest(edit, get_args(Edit)))


def edited(
    x: Float[Tensor, "T D"],
    codes: Float[Tensor, "B T"],
    rows: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    *,
    edit: str,
    alpha: float | int,
) -> Float[Tensor, "B T D"]:
    """Each feature's edit at every given position. `codes[f, t]` is z_f at position t, `rows[f]` is v_f.

    The codes are read by `scale` and `replace` only.
    """
    check_edit(edit)
    if edit == "add":
        return x + alpha * rows[:, None, :]
    if edit == "scale":
        return x + (alpha - 1) * codes[..., None] * rows[:, None, :]
    return torch.addcmul(b_dec, alpha * codes[..., None], rows[:, None, :])
