"""Score given items along their paths in the trie, by the same distribution that search and sampling use.

Scoring and search use the same `LevelScorer`, so a prompt is read once for all its items, and training sees the
probabilities of decoding (method.md 7). Gradients flow unless the caller disables them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from trialign.decode.beam import LevelScorer
from trialign.decode.index import PrefixIndex
from trialign.decode.step import Beams, legal_children


@dataclass(frozen=True)
class Trie:
    """A prefix index with the path of every item through it.

    `nodes_DN`: int64 [L + 1, N], the node of each item at each depth, 0 being the root. `codes_LN`: int64 [L, N].
    """

    index: PrefixIndex
    nodes_DN: torch.Tensor
    codes_LN: torch.Tensor

    @classmethod
    def from_index(cls, index: PrefixIndex) -> Trie:
        """Build the paths of all items."""
        node_N = torch.arange(index.num_items)
        nodes, codes = [node_N], []
        for level in reversed(index.levels):
            codes.append(level.codes[node_N])
            parents = torch.repeat_interleave(torch.arange(len(level.starts) - 1), level.starts.diff())
            node_N = parents[node_N]
            nodes.append(node_N)
        by_item_N = torch.argsort(index.items)
        return cls(index, torch.stack(nodes[::-1])[:, by_item_N], torch.stack(codes[::-1])[:, by_item_N])

    def to(self, device: torch.device | str) -> Trie:
        """Return the trie with its arrays on `device`."""
        return Trie(self.index.to(device), self.nodes_DN.to(device), self.codes_LN.to(device))


class ItemPaths(NamedTuple):
    """Log-probabilities along the paths of G items after each of B prompts.

    `log_probs_BG`: of the items, renormalized over legal children at every step. `levels`: per level the
    log-probabilities [B, 1 or G, C] of all children of the nodes on the path, -inf where there is no child; the root
    has one row for all items of a prompt.
    """

    log_probs_BG: torch.Tensor
    levels: list[torch.Tensor]


def score_items(scorer: LevelScorer, trie: Trie, items_BG: torch.Tensor) -> ItemPaths:
    """Return the log-probabilities of items along their paths in the trie.

    Args:
        scorer: the model with its prompts, before `start`.
        trie: on the scorer's device.
        items_BG: int64, items of the catalogue.
    """
    num_prompts, num_items = items_BG.shape
    logits_BWK = scorer.start()[:, None]
    nodes_BW = items_BG.new_zeros((num_prompts, 1))
    parents_BG = items_BG.new_zeros(items_BG.shape)
    log_probs_BG = torch.zeros(items_BG.shape, device=items_BG.device)
    levels = []
    for level in range(trie.index.num_levels):
        children = legal_children(nodes_BW, level, logits_BWK, trie.index)
        levels.append(children.log_probs)
        nodes_BW = trie.nodes_DN[level + 1][items_BG]
        slots_BG = nodes_BW - children.first
        by_item_BGC = children.log_probs.expand(-1, num_items, -1)
        log_probs_BG = log_probs_BG + by_item_BGC.gather(2, slots_BG[..., None]).squeeze(2)
        if level + 1 < trie.index.num_levels:
            logits_BWK = scorer.advance(Beams(nodes_BW, trie.codes_LN[level][items_BG], log_probs_BG, parents_BG))
            parents_BG = torch.arange(num_items, device=items_BG.device).expand(num_prompts, -1)
    return ItemPaths(log_probs_BG, levels)


def entropy(levels: list[torch.Tensor], num_items: int) -> torch.Tensor:
    """Return the entropy [B, G] of the distributions along each item's path, in nats, summed over levels."""
    return sum((_expected(found.exp(), -found, num_items) for found in levels), torch.zeros(()))


def divergence(levels: list[torch.Tensor], others: list[torch.Tensor], num_items: int) -> torch.Tensor:
    """Return the KL divergence [B, G] from `others` along each item's path, exact over legal children, summed."""
    pairs = zip(levels, others, strict=True)
    return sum((_expected(found.exp(), found - other, num_items) for found, other in pairs), torch.zeros(()))


def _expected(chances_BWC: torch.Tensor, values_BWC: torch.Tensor, num_items: int) -> torch.Tensor:
    """Return the expected value [B, G]; a missing child has probability 0, and its value is ignored."""
    values_BWC = values_BWC.masked_fill(chances_BWC == 0, 0.0)
    return (chances_BWC * values_BWC).sum(dim=-1).expand(-1, num_items)
