"""One step of constrained search: gather the legal children of every beam, score them, keep the best."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from trialign.decode.index import PrefixIndex


class Beams(NamedTuple):
    """W prefixes per history, best first; a beam of score -inf is empty.

    `nodes`, `codes`, `parents`: int64 [B, W], the prefix's node one level down, its last code, and the index of its
    parent among the previous beams. `scores`: float32 [B, W].
    """

    nodes: torch.Tensor
    codes: torch.Tensor
    scores: torch.Tensor
    parents: torch.Tensor


class Children(NamedTuple):
    """The candidates of one step, C = the most children any node of the level has.

    `first`: int64 [B, W], the node number of each beam's first child; the others follow it. `codes`: int64 [B, W, C];
    `log_probs`: float32 [B, W, C], -inf where a beam has fewer than C children, and the code there is undefined.
    """

    first: torch.Tensor
    codes: torch.Tensor
    log_probs: torch.Tensor

    def take(self, chosen_BV: torch.Tensor, scores_BV: torch.Tensor) -> Beams:
        """Turn chosen candidates into the beams of the next level.

        Args:
            chosen_BV: int64, indices into the W x C candidates of a history.
            scores_BV: float32, their log-probabilities from the root.
        """
        width = self.codes.shape[-1]
        parents_BV = chosen_BV // width
        # A missing child is replaced by its beam's first child with probability 0, so that every node number is valid.
        offsets_BV = (chosen_BV % width).masked_fill(scores_BV == -torch.inf, 0)
        return Beams(
            nodes=self.first.gather(1, parents_BV) + offsets_BV,
            codes=self.codes.flatten(1).gather(1, chosen_BV),
            scores=scores_BV,
            parents=parents_BV,
        )


def legal_children(nodes_BW: torch.Tensor, level: int, logits_BWK: torch.Tensor, index: PrefixIndex) -> Children:
    """Return the children of every beam and their log-probability, renormalized over the legal ones.

    A node's only child has probability one, so a level without a choice does not change the score (method.md 7).

    Args:
        nodes_BW: nodes of this level.
        level: 0..L-1.
        logits_BWK: the model's scores of all K codes of this level.
        index: the catalogue's prefixes.
    """
    table = index.levels[level]
    first_BW = table.starts[nodes_BW]
    count_BW = table.starts[nodes_BW + 1] - first_BW
    codes_BWC = functional.embedding(first_BW, table.windows)  # equal to windows[first_BW], in half the time
    missing_BWC = torch.arange(table.width, device=nodes_BW.device) >= count_BW[..., None]
    logits_BWC = logits_BWK.float().gather(-1, codes_BWC).masked_fill_(missing_BWC, -torch.inf)
    return Children(first_BW, codes_BWC, logits_BWC.log_softmax(-1))


def select(
    scores_BW: torch.Tensor,
    nodes_BW: torch.Tensor,
    level: int,
    logits_BWK: torch.Tensor,
    index: PrefixIndex,
    num_beams: int,
    *,
    excluded_BM: torch.Tensor | None = None,
    stocked_BC: torch.Tensor | None = None,
) -> Beams:
    """Extend every beam by every legal code and keep the best.

    Args:
        scores_BW: float32, the beams' log-probabilities so far.
        nodes_BW: their nodes at this level.
        level: 0..L-1.
        logits_BWK: the model's scores of all K codes of this level.
        index: the catalogue's prefixes.
        num_beams: how many to keep; fewer are returned where the level has fewer nodes.
        excluded_BM: only at the last level: int64 items that must not be returned, ascending in each row. They are
            filtered after the softmax, so the other items' scores do not change.
        stocked_BC: bool, the children of this level that lead to an item in stock, one row for all histories or one
            each. The others are filtered after the softmax too, so that no beam is spent on them.
    """
    table = index.levels[level]
    children = legal_children(nodes_BW, level, logits_BWK, index)
    totals_BC = children.log_probs.add_(scores_BW[..., None]).flatten(1)
    offsets_C = torch.arange(table.width, device=nodes_BW.device)
    if stocked_BC is not None:
        children_BC = (children.first[..., None] + offsets_C).clamp_(max=table.num_children - 1).flatten(1)
        totals_BC.masked_fill_(~stocked_BC.expand(len(nodes_BW), -1).gather(1, children_BC), -torch.inf)
    if excluded_BM is not None:
        leaves_BWC = (children.first[..., None] + offsets_C).clamp_(max=index.num_items - 1)
        items_BC = index.items[leaves_BWC].flatten(1)
        place_BC = torch.searchsorted(excluded_BM, items_BC).clamp_(max=excluded_BM.shape[1] - 1)
        totals_BC.masked_fill_(excluded_BM.gather(1, place_BC) == items_BC, -torch.inf)
    kept = min(num_beams, totals_BC.shape[1], table.num_children)
    scores_BV, chosen_BV = totals_BC.topk(kept, dim=1)
    return children.take(chosen_BV, scores_BV)
