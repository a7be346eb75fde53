"""One step of constrained search: gather the legal children of every beam, score them, keep the best."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trialign.decode.index import PrefixIndex


class Beams(NamedTuple):
    """W prefixes per history, best first; a beam of score -inf stands for nothing.

    `nodes`, `codes`, `parents`: int64 [B, W], the prefix's node one level down, its last code, and which of the
    previous beams it grew from. `scores`: float32 [B, W].
    """

    nodes: torch.Tensor
    codes: torch.Tensor
    scores: torch.Tensor
    parents: torch.Tensor


class Children(NamedTuple):
    """The candidates of one step, C = the most children any node of the level has.

    `nodes`, `codes`: int64 [B, W, C]; `log_probs`: float32 [B, W, C], -inf where a beam has fewer than C children.
    """

    nodes: torch.Tensor
    codes: torch.Tensor
    log_probs: torch.Tensor


def legal_children(nodes_BW: torch.Tensor, level: int, logits_BWK: torch.Tensor, index: PrefixIndex) -> Children:
    """Return the children of every beam and their log-probability, renormalised over the legal ones.

    A node's only child has probability one, so a prefix that leaves no choice costs nothing (method.md 7).

    Args:
        nodes_BW: nodes of this level.
        level: 0..L-1.
        logits_BWK: the model's scores of all K codes of this level.
        index: the catalogue's prefixes.
    """
    starts, codes, width = index.levels[level]
    first_BW = starts[nodes_BW]
    count_BW = starts[nodes_BW + 1] - first_BW
    offsets_C = torch.arange(width, device=nodes_BW.device)
    legal_BWC = offsets_C < count_BW[..., None]
    nodes_BWC = torch.where(legal_BWC, first_BW[..., None] + offsets_C, first_BW[..., None])
    codes_BWC = codes[nodes_BWC]
    logits_BWC = logits_BWK.float().gather(-1, codes_BWC).masked_fill(~legal_BWC, -torch.inf)
    return Children(nodes_BWC, codes_BWC, logits_BWC.log_softmax(-1))


def select(
    scores_BW: torch.Tensor,
    nodes_BW: torch.Tensor,
    level: int,
    logits_BWK: torch.Tensor,
    index: PrefixIndex,
    num_beams: int,
    *,
    struck_BM: torch.Tensor | None = None,
) -> Beams:
    """Extend every beam by every legal code and keep the best.

    Args:
        scores_BW: float32, the beams' log-probabilities so far.
        nodes_BW: their nodes at this level.
        level: 0..L-1.
        logits_BWK: the model's scores of all K codes of this level.
        index: the catalogue's prefixes.
        num_beams: how many to keep; fewer are returned where the level has fewer nodes.
        struck_BM: only at the last level: int64 items that must not be returned, ascending in each row. They are
            struck after the softmax, so the other items' scores do not change.
    """
    children = legal_children(nodes_BW, level, logits_BWK, index)
    totals_BC = (scores_BW[..., None] + children.log_probs).flatten(1)
    if struck_BM is not None:
        items_BC = index.items[children.nodes].flatten(1)
        place_BC = torch.searchsorted(struck_BM, items_BC).clamp_(max=struck_BM.shape[1] - 1)
        totals_BC = totals_BC.masked_fill(struck_BM.gather(1, place_BC) == items_BC, -torch.inf)
    kept = min(num_beams, totals_BC.shape[1], index.levels[level].num_children)
    scores, chosen = totals_BC.topk(kept, dim=1)
    return Beams(
        nodes=children.nodes.flatten(1).gather(1, chosen),
        codes=children.codes.flatten(1).gather(1, chosen),
        scores=scores,
        parents=chosen // children.codes.shape[-1],
    )
