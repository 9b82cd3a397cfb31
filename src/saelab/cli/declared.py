"""What somebody says about an SAE whose files do not say it: the options that `inspect` and `convert` share.

Site and language model are each verb's own. Nothing is opened here.
"""

from dataclasses import asdict, dataclass
from typing import Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DeclaredFacts:
    """Facts that a format's reader asks for; one that it does not need is refused.

    Parameters
    ----------
    tensors:
        Which of plain tensors is which: W_enc=enc.weight.T,W_dec=dec.weight.T,b_enc=enc.bias,..., or a YAML file.
    k:
        Active latents per token, where the files do not say.
    threshold:
        One threshold for all latents, where the files hold none.
    input_scale:
        What activations were multiplied by before training, where the files do not say.
    normalise:
        How it normalises every token (layer_norm, constant_norm_rescale, centred), where the files do not say.
    transcode:
        It is a transcoder: it rebuilds the output of its site's module from the input, where the files do not say.
    """

    tensors: str | None = None
    k: int | None = None
    threshold: float | None = None
    input_scale: float | None = None
    normalise: str | None = None
    transcode: bool | None = None

    def given(self) -> dict[str, Any]:
        """As `load` takes them."""
        return asdict(self)


NOTHING = DeclaredFacts()
