"""Independent streams of randomness, by seed and name.

Each use of chance draws from a generator of its own, named after what it decides. Adding a draw in one place then
changes no number in another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return the 63-bit seed of the stream `names` under `seed`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the numpy generator of the stream `names` under `seed`."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return the torch (CPU) generator of the stream `names` under `seed`."""
    import torch  # seconds to import, and not every stage draws by it

    return torch.Generator().manual_seed(derive(seed, *names))


def seed_global(seed: int, *names: str | int) -> None:
    """Seed torch's default generator, which dropout and module initialization draw from."""
    import torch

    torch.manual_seed(derive(seed, *names))
