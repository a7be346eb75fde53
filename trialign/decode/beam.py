"""Constrained beam search over the levels of semantic IDs, for any model that implements `LevelScorer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from trialign.decode.index import PrefixIndex
from trialign.decode.step import Beams, select
from trialign.types import NO_ITEM


class LevelScorer(Protocol):
    """The interface of a model in search: scores codes level by level for a batch of prompts, and keeps its state."""

    def start(self) -> torch.Tensor:
        """Read the prompts and return logits_BK of the first level."""
        ...

    def advance(self, beams: Beams) -> torch.Tensor:
        """Extend the beams by a level and return logits_BWK of the next one.

        Args:
            beams: the beams that were kept: each one's last code, its node, and its parent among the beams of the
                previous call (all 0 after `start`).
        """
        ...


class Ranking(NamedTuple):
    """`items`: int64 [B, num_beams], NO_ITEM where fewer are legal; `scores`: float32, -inf there. Best items first."""

    items: torch.Tensor
    scores: torch.Tensor


@torch.inference_mode()
def beam_search(
    scorer: LevelScorer,
    index: PrefixIndex,
    num_beams: int,
    *,
    exclude_BM: torch.Tensor | None = None,
    stocked: Sequence[torch.Tensor] | None = None,
) -> Ranking:
    """Return the best items of a batch of histories by constrained beam search.

    The score of an item is the sum over levels of the log-probability of its code, renormalized over the codes that
    are legal after its prefix (method.md 7). Every batch takes L steps.

    Args:
        scorer: the model with its prompts.
        index: the catalogue's prefixes, on the scorer's device.
        num_beams: W, prefixes kept per level and items returned.
        exclude_BM: int64, items that may not be returned, padded with NO_ITEM; M may be 0.
        stocked: `index.stocked()` of the items that may be returned; None: all.
    """
    logits_BWK = scorer.start()[:, None]
    num_users = len(logits_BWK)
    nodes_BW = torch.zeros((num_users, 1), dtype=torch.int64, device=logits_BWK.device)
    scores_BW = torch.zeros((num_users, 1), device=logits_BWK.device)
    excluded_BM = exclude_BM.sort(dim=1).values if exclude_BM is not None and exclude_BM.shape[1] else None
    last = index.num_levels - 1
    for level in range(index.num_levels):
        beams = select(
            scores_BW,
            nodes_BW,
            level,
            logits_BWK,
            index,
            num_beams,
            excluded_BM=excluded_BM if level == last else None,
            stocked_BC=None if stocked is None else stocked[level],
        )
        nodes_BW, scores_BW = beams.nodes, beams.scores
        if level < last:
            logits_BWK = scorer.advance(beams)
    return _ranking(index.items[nodes_BW], scores_BW, num_beams)


@torch.inference_mode()
def best_items(
    log_probs_BN: torch.Tensor,
    k: int,
    *,
    exclude_BM: torch.Tensor | None = None,
    stock_BN: torch.Tensor | None = None,
) -> Ranking:
    """Return the best items by the log-probabilities of all of them, without a search and without what it misses.

    Args:
        log_probs_BN: float32, of every item.
        k: how many to return. Of items that are equally probable it returns those that torch.topk takes.
        exclude_BM: as `beam_search`.
        stock_BN: bool, the items that may be returned, one row for all histories or one each; None: all.
    """
    if stock_BN is not None:
        log_probs_BN = log_probs_BN.masked_fill(~stock_BN, -torch.inf)
    if exclude_BM is not None:
        rows_Q, columns_Q = torch.nonzero(exclude_BM != NO_ITEM, as_tuple=True)
        excluded = (rows_Q, exclude_BM[rows_Q, columns_Q])
        log_probs_BN = log_probs_BN.index_put(excluded, log_probs_BN.new_tensor(-torch.inf))
    scores_BK, items_BK = log_probs_BN.topk(min(k, log_probs_BN.shape[1]), dim=1)
    return _ranking(items_BK, scores_BK, k)


def _ranking(items_BW: torch.Tensor, scores_BW: torch.Tensor, k: int) -> Ranking:
    """Mark what is no item, and pad to `k` places."""
    missing = k - items_BW.shape[1]
    return Ranking(
        torch.nn.functional.pad(items_BW.masked_fill(scores_BW == -torch.inf, NO_ITEM), (0, missing), value=NO_ITEM),
        torch.nn.functional.pad(scores_BW, (0, missing), value=-torch.inf),
    )
