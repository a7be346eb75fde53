"""One integer space for text and semantic IDs: text tokens first, then K SID tokens for each level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Integers = TypeVar("Integers", torch.Tensor, NDArray[np.int64])


@dataclass(frozen=True)
class TokenSpace:
    """Maps (level, code) to a token and back; every method takes numpy arrays or torch tensors of any shape.

    The token of code c at level l (counted from 0) is `text_vocab + l * codebook_size + c`.

    Args:
        text_vocab: number of text tokens, which keep their ids 0..text_vocab-1.
        num_levels: L.
        codebook_size: K.

    Example:
        >>> TokenSpace(text_vocab=100, num_levels=2, codebook_size=8).encode(np.array([[3, 5]]))
        array([[103, 113]])
    """

    text_vocab: int
    num_levels: int
    codebook_size: int

    @property
    def size(self) -> int:
        """Number of tokens, text and SID together."""
        return self.text_vocab + self.num_levels * self.codebook_size

    def level(self, tokens: Integers) -> Integers:
        """Return the level of each SID token, 0..L-1; negative for a text token."""
        return (tokens - self.text_vocab) // self.codebook_size

    def code(self, tokens: Integers) -> Integers:
        """Return the code of each SID token, 0..K-1; without meaning for a text token."""
        return (tokens - self.text_vocab) % self.codebook_size

    def encode(self, codes: Integers) -> Integers:
        """Return the tokens of codes; their last axis is all levels, or the first few."""
        depth = codes.shape[-1]
        assert depth <= self.num_levels, (depth, self.num_levels)
        if isinstance(codes, torch.Tensor):
            return codes + self.text_vocab + self.codebook_size * torch.arange(depth, device=codes.device)
        return codes + self.text_vocab + self.codebook_size * np.arange(depth)
