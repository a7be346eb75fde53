"""The walk of a search through the trie: which prefixes it weighed on every level, which it kept and which it dropped.

A search is watched, not repeated: the walk is what `beam_search` did. Where a model is one softmax over items there is
no search, and the walk is the probability of every prefix, which is the sum of its items'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.decode.beam import LevelScorer, beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.step import Beams, legal_children

KEPT, DROPPED, FILTERED = 0, 1, 2
"""Fates of a prefix: its items may still be returned; others were likelier; none of its items may be returned."""


class LevelWalk(NamedTuple):
    """The prefixes of one level that were weighed, the likeliest first.

    `nodes`: int64 [C], their nodes, one level down; `log_probs`: float32 [C], from the root; `fates`: int8 [C].
    """

    nodes: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    fates: NDArray[np.int8]


class _Watched:
    """A `LevelScorer` that records what the search asks, and the answers."""

    def __init__(self, scorer: LevelScorer) -> None:
        self._scorer = scorer
        self.logits: list[torch.Tensor] = []
        self.kept: list[Beams] = []

    def start(self) -> torch.Tensor:
        logits_BK = self._scorer.start()
        self.logits.append(logits_BK[:, None])
        return logits_BK

    def advance(self, beams: Beams) -> torch.Tensor:
        self.kept.append(beams)
        self.logits.append(self._scorer.advance(beams))
        return self.logits[-1]


@torch.inference_mode()
def watch_search(
    scorer: LevelScorer,
    index: PrefixIndex,
    num_beams: int,
    *,
    exclude_1M: torch.Tensor | None = None,
    stocked: Sequence[torch.Tensor] | None = None,
) -> list[LevelWalk]:
    """Search for one history, and return the walk; arguments as `beam_search`."""
    watched = _Watched(scorer)
    found = beam_search(watched, index, num_beams, exclude_BM=exclude_1M, stocked=stocked)
    leaf_N = torch.argsort(index.items)
    items_W = found.items[0][found.scores[0] > -torch.inf]
    returnable = _returnable(index, exclude_1M, stocked)
    nodes_BW = torch.zeros((1, 1), dtype=torch.int64, device=index.items.device)
    scores_BW = torch.zeros((1, 1), device=index.items.device)
    levels = []
    for level, logits_BWK in enumerate(watched.logits):
        children = legal_children(nodes_BW, level, logits_BWK, index)
        offsets_C = torch.arange(children.codes.shape[-1], device=index.items.device)
        totals = (children.log_probs + scores_BW[..., None]).flatten()
        nodes = (children.first[..., None] + offsets_C).flatten()[totals > -torch.inf]
        last = level == index.num_levels - 1
        kept = leaf_N[items_W] if last else watched.kept[level].nodes[0][watched.kept[level].scores[0] > -torch.inf]
        fates = torch.where(torch.isin(nodes, kept), KEPT, torch.where(returnable[level][nodes], DROPPED, FILTERED))
        levels.append(_sorted(nodes, totals[totals > -torch.inf], fates))
        if not last:
            nodes_BW, scores_BW = watched.kept[level].nodes, watched.kept[level].scores
    return levels


def prefix_walk(
    log_probs_1N: torch.Tensor,
    index: PrefixIndex,
    *,
    exclude_1M: torch.Tensor | None = None,
    stocked: Sequence[torch.Tensor] | None = None,
) -> list[LevelWalk]:
    """Return the walk of a model that is one softmax over items: all prefixes of every level; nothing is dropped.

    Args:
        log_probs_1N: of all items.
        index: the catalogue's prefixes.
        exclude_1M: as `beam_search`.
        stocked: as `beam_search`.
    """
    found = _returnable(index, exclude_1M, stocked)
    chances = log_probs_1N[0, index.items].double().exp()
    levels = []
    for table, returnable in zip(reversed(index.levels), reversed(found), strict=True):
        nodes = torch.arange(len(chances), device=chances.device)
        levels.append(_sorted(nodes, chances.log().float(), torch.where(returnable, KEPT, FILTERED)))
        parents = torch.repeat_interleave(torch.arange(len(table.starts) - 1, device=nodes.device), table.starts.diff())
        chances = chances.new_zeros(len(table.starts) - 1).index_add_(0, parents, chances)
    return levels[::-1]


def _returnable(
    index: PrefixIndex, exclude_1M: torch.Tensor | None, stocked: Sequence[torch.Tensor] | None
) -> list[torch.Tensor]:
    """Return per level which nodes lead to an item that may be returned; excluded items count on the last one only."""
    if stocked is None:
        device = index.items.device
        found = [torch.ones(level.num_children, dtype=torch.bool, device=device) for level in index.levels]
    else:
        found = [level_1C[0].clone() for level_1C in stocked]
    if exclude_1M is not None:
        found[-1] &= ~torch.isin(index.items, exclude_1M)
    return found


def _sorted(nodes: torch.Tensor, log_probs: torch.Tensor, fates: torch.Tensor) -> LevelWalk:
    order = log_probs.argsort(descending=True, stable=True)
    nodes, log_probs, fates = (found[order].cpu() for found in (nodes, log_probs, fates.to(torch.int8)))
    return LevelWalk(nodes.numpy(), log_probs.numpy(), fates.numpy())
