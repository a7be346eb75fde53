"""The trie of all semantic IDs as flat arrays, one CSR table per level.

Items are sorted by their codes, and the prefixes of each length are numbered 0, 1, 2, ... in that order. The children
of a prefix are adjacent, and a child's index in its level's child list is its own node number one level down. So two
arrays per level suffice: where each node's children start, and the code that leads to each child.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.errors import DataError


class Level(NamedTuple):
    """The children of every node of one level.

    `starts`: int64 [nodes + 1]; the children of node n are `starts[n] : starts[n + 1]`, which are also their numbers.
    `padded`: int64 [children + width - 1], the code that leads to each child, then zeros.
    `width`: the most children of any node. Level 0 has one node, the root; a code that no item uses does not appear.
    """

    starts: torch.Tensor
    padded: torch.Tensor
    width: int

    @property
    def num_children(self) -> int:
        """The number of nodes of the next level."""
        return len(self.padded) - self.width + 1

    @property
    def codes(self) -> torch.Tensor:
        """The code that leads to each child, int64 [children]."""
        return self.padded[: self.num_children]

    @property
    def windows(self) -> torch.Tensor:
        """The codes of each child and the `width - 1` children after it, int64 [children, width]; a view, not a copy.

        One gather of rows reads all children of a node; a row may extend into the children of the next nodes.
        """
        return self.padded.unfold(0, self.width, 1)


class PrefixIndex:
    """All prefixes of all semantic IDs.

    Args:
        levels: the L child tables.
        items: int64 [N], the item of each leaf.
        codebook_size: K.
    """

    def __init__(self, levels: list[Level], items: torch.Tensor, codebook_size: int) -> None:
        self.levels = levels
        self.items = items
        self.codebook_size = codebook_size

    @classmethod
    def from_codes(cls, codes_NL: NDArray[Any], codebook_size: int) -> PrefixIndex:
        """Index the semantic IDs of a catalogue.

        Args:
            codes_NL: one distinct tuple of codes per item, row = item index.
            codebook_size: K; codes lie in 0..K-1.

        Raises:
            DataError: there is no item, a code is out of range, or two items share all their codes.
        """
        _check(codes_NL, codebook_size)
        num_items, num_levels = codes_NL.shape
        order = np.lexsort(codes_NL.T[::-1])
        sorted_NL = codes_NL[order].astype(np.int64)
        # new[i]: the first l codes of item i, in sorted order, differ from those of item i - 1: a new node of depth l.
        new = np.zeros(num_items, dtype=bool)
        new[0] = True
        levels = []
        for level in range(num_levels):
            parents = np.flatnonzero(new)
            new = new | np.concatenate([[True], sorted_NL[1:, level] != sorted_NL[:-1, level]])
            children = np.flatnonzero(new)
            starts = np.append(np.searchsorted(children, parents), len(children))
            width = int(np.diff(starts).max())
            padded = np.pad(sorted_NL[children, level], (0, width - 1))
            levels.append(Level(torch.from_numpy(starts), torch.from_numpy(padded), width))
        if levels[-1].num_children < num_items:
            _refuse_shared(sorted_NL, order)
        return cls(levels, torch.from_numpy(order), codebook_size)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.levels)

    @property
    def num_items(self) -> int:
        """N, the number of leaves."""
        return len(self.items)

    def stocked(self, stock_BN: torch.Tensor) -> list[torch.Tensor]:
        """Return for every level which children lead to an item in stock, bool [B, children].

        Args:
            stock_BN: bool, the items that may be returned; one row for each history, or one for all.
        """
        stocked_BC = stock_BN[:, self.items]
        levels = [stocked_BC]
        for level in reversed(self.levels[1:]):
            before_BC = torch.nn.functional.pad(stocked_BC.cumsum(dim=1, dtype=torch.int32), (1, 0))
            stocked_BC = before_BC[:, level.starts].diff(dim=1) > 0
            levels.append(stocked_BC)
        return levels[::-1]

    def to(self, device: torch.device | str) -> PrefixIndex:
        """Return the index with its arrays on `device`."""
        levels = [Level(level.starts.to(device), level.padded.to(device), level.width) for level in self.levels]
        return PrefixIndex(levels, self.items.to(device), self.codebook_size)


def _check(codes_NL: NDArray[Any], codebook_size: int) -> None:
    if codes_NL.ndim != 2 or 0 in codes_NL.shape:
        raise DataError(
            f"codes of shape {codes_NL.shape}",
            rule="one row of codes per item, at least one item and one level",
            remedy="build the index from the codes of an assigned catalogue",
        )
    if codes_NL.min() < 0 or codes_NL.max() >= codebook_size:
        raise DataError(
            f"codes from {codes_NL.min()} to {codes_NL.max()}",
            rule=f"codes lie in 0..{codebook_size - 1}",
            remedy="pass the codebook size that the semantic IDs were made with",
        )


def _refuse_shared(sorted_NL: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    twin = int(np.flatnonzero((sorted_NL[1:] == sorted_NL[:-1]).all(axis=1))[0])
    raise DataError(
        f"items {order[twin]} and {order[twin + 1]} share the codes {sorted_NL[twin].tolist()}",
        rule="a semantic ID belongs to one item",
        remedy="assign unique semantic IDs first: trialign assign",
    )
