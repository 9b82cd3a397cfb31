"""The axis letters of every shape annotation, and nothing else.

Shapes are jaxtyping annotations such as `Float[Tensor, "B T D"]`, checked under test only (pytest switches
beartype on).

| letter | axis |
|---|---|
| B | rows of a batch (sequences, or tokens of an SAE batch) |
| T | positions of a sequence |
| N | tokens or samples, flattened |
| D | width of the residual stream (`d_in`) |
| F | features (latents) of an SAE (`d_sae`) |
| K | active features |
| V | vocabulary |

Weights: `W_enc [D, F]`, `W_dec [F, D]`, `b_enc [F]`, `b_dec [D]`. A row of `W_dec` is a feature's direction.
Codes are in raw activation units. `...` in a shape means any leading axes.
"""

AXES = {
    "B": "rows of a batch",
    "T": "positions of a sequence",
    "N": "tokens or samples",
    "D": "residual width",
    "F": "features",
    "K": "active features",
    "V": "vocabulary",
}
