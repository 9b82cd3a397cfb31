"""Randomness from names: one generator per (stage, item), seeded by a hash, never the global state.

The same names give the same stream on every machine and in every order of work; different names give independent
streams. For torch: `torch.Generator().manual_seed(seed_of(...))`.
"""

import hashlib

import numpy as np


def seed_of(*names: str | int) -> int:
    """A 63-bit seed from the names, for instance `seed_of(run_seed, "steering", concept, factor)`."""
    text = "\x1f".join(f"{type(n).__name__}:{n}" for n in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*names: str | int) -> np.random.Generator:
    """A NumPy generator seeded by `seed_of(*names)`."""
    return np.random.default_rng(seed_of(*names))
