"""The repeat term: one learned bias on items of the history, so that a model can say "not again" or "again".

The vectors of an item as input and as output are the same or close, so a history makes its own items likely, whether
users repeat themselves or not. The term adds one learned scalar b to the logit of every node of the trie whose items
are all in the history. Where the model is one softmax over the leaves, that is p'(i) ~ p(i) e^(b seen(i)). Where it
is a softmax per level, an item is marked at the first prefix that leads to seen items alone; below it all children
are marked, which changes nothing. Training, search and reinforcement learning read the same logits (method.md 6).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from trialign.decode.path import Trie
from trialign.types import NO_ITEM

RATE = 30.0
"""The bias is this times its parameter: Adam moves a parameter by the learning rate, and a bias must move by units."""


def bias_of(learned: torch.Tensor) -> torch.Tensor:
    """Return the bias of a parameter. Its gradient is that of the bias, so that clipping by norm spares the others."""
    return learned + (RATE - 1) * learned.detach()


class Seen(NamedTuple):
    """Which items came before each of M places of prediction in its example.

    `rows_P`, `items_P`: int64, the distinct pairs of place and item, sorted. `answers_M`: int64, the item that each
    place predicts or continues; without meaning in a search.
    """

    rows_P: torch.Tensor
    items_P: torch.Tensor
    answers_M: torch.Tensor


class RepeatTerm(nn.Module):
    """The learned bias, and the nodes of the trie it applies to.

    Args:
        trie: of the semantic IDs.
    """

    node_LN: torch.Tensor
    size_LN: torch.Tensor

    def __init__(self, trie: Trie) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.zeros(1))
        node_LN = trie.nodes_DN[1:]
        size_LN = torch.stack([torch.bincount(node_N)[node_N] for node_N in node_LN])
        self.register_buffer("node_LN", node_LN, persistent=False)
        self.register_buffer("size_LN", size_LN, persistent=False)

    def forward(self) -> torch.Tensor:
        """Return b, [1]."""
        return bias_of(self.learned)

    def marked(self, level: int, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the places and the nodes that codes of `level` lead to whose items were all seen.

        Each node by one of its items; both are int64 [Q], sorted by place and node.
        """
        nodes_P = self.node_LN[level][seen.items_P]
        keys_P, order_P = torch.sort(seen.rows_P * self.node_LN.shape[1] + nodes_P)
        _, counts_Q = torch.unique_consecutive(keys_P, return_counts=True)
        first_Q = order_P[counts_Q.cumsum(0) - counts_Q]
        all_seen_Q = counts_Q == self.size_LN[level][seen.items_P[first_Q]]
        marked_Q = first_Q[all_seen_Q]
        return seen.rows_P[marked_Q], seen.items_P[marked_Q]


def seen_before(
    items_RT: torch.Tensor,
    ends_RT: torch.Tensor,
    positions_RT: torch.Tensor,
    places_2M: tuple[torch.Tensor, torch.Tensor],
) -> Seen:
    """Return the items that end before each place, in the place's own example.

    Args:
        items_RT: int64, the item that each position belongs to, NO_ITEM where there is none.
        ends_RT: bool, whether an item ends at the position.
        positions_RT: int64, position in the example.
        places_2M: rows and columns of the places.
    """
    rows_M, columns_M = places_2M
    positions_M = positions_RT[rows_M, columns_M]
    longest = int(positions_M.max()) if len(positions_M) else 0
    back_W = torch.arange(1, longest + 1, device=items_RT.device)
    inside_MW = back_W <= positions_M[:, None]
    ended_RT = items_RT.masked_fill(~ends_RT, NO_ITEM)
    items_MW = ended_RT[rows_M[:, None], (columns_M[:, None] - back_W).clamp(min=0)].masked_fill(~inside_MW, NO_ITEM)
    return Seen(*_distinct(items_MW), items_RT[rows_M, columns_M])


def seen_in_prompts(items_BT: torch.Tensor, ends_BT: torch.Tensor) -> Seen:
    """Return the items of each prompt; arguments as `seen_before`."""
    return Seen(*_distinct(items_BT.masked_fill(~ends_BT, NO_ITEM)), items_BT.new_empty(0))


def _distinct(items_MW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows_P, columns_P = torch.nonzero(items_MW != NO_ITEM, as_tuple=True)
    num_items = int(items_MW.max()) + 1 if items_MW.numel() else 1
    pairs_P = torch.unique(rows_P * num_items + items_MW[rows_P, columns_P])
    return pairs_P // num_items, pairs_P % num_items
