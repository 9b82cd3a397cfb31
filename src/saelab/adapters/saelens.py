"""A SAELens object with the same codes, made through the native folder, so that there is one writer to trust."""

import tempfile
from typing import Any

from saelab.core.errors import MissingDependency
from saelab.saes.base import Sae
from saelab.saes.formats import save_sae


def to_saelens(sae: Sae) -> Any:
    """The SAE as a `sae_lens.SAE` on the CPU. Raises `MissingDependency` where sae-lens is not installed."""
    try:
        from sae_lens import SAE  # pyright: ignore[reportMissingImports]  (installed by who adapts)
    except ImportError:
        raise MissingDependency(
            "A SAELens object needs the library sae-lens.", hint="pip install sae-lens, or save_sae(sae, folder)."
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        save_sae(sae, folder)
        return SAE.load_from_disk(folder, device="cpu")
