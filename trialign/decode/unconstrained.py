"""Beam search without the trie: what a generator would output if decoding were not constrained to the catalogue."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trialign.decode.beam import LevelScorer
from trialign.decode.step import Beams


class UnconstrainedRanking(NamedTuple):
    """`codes`: int64 [B, W, L], best first; `scores`: float32 [B, W], summed log-probabilities over all K codes."""

    codes: torch.Tensor
    scores: torch.Tensor


@torch.inference_mode()
def unconstrained_search(scorer: LevelScorer, num_levels: int, num_beams: int) -> UnconstrainedRanking:
    """Return the best tuples of codes, whether or not an item has them.

    Each level is still limited to its own K codes: a model that could also output a code of another level, or text,
    would be wrong at least as often (method.md 10).

    Args:
        scorer: the model with its prompts; it must score all K codes of a level, not only those of the catalogue.
        num_levels: L.
        num_beams: W.
    """
    log_probs_BWK = scorer.start()[:, None].float().log_softmax(-1)
    scores_BW = log_probs_BWK.new_zeros(log_probs_BWK.shape[:2])
    codes_BWL = torch.empty((*scores_BW.shape, 0), dtype=torch.int64, device=scores_BW.device)
    codebook_size = log_probs_BWK.shape[2]
    for level in range(num_levels):
        totals_BC = (scores_BW[..., None] + log_probs_BWK).flatten(1)
        scores_BW, chosen_BW = totals_BC.topk(min(num_beams, totals_BC.shape[1]), dim=1)
        parents_BW, taken_BW = chosen_BW // codebook_size, chosen_BW % codebook_size
        inherited_BWL = codes_BWL.gather(1, parents_BW[..., None].expand(-1, -1, level))
        codes_BWL = torch.cat([inherited_BWL, taken_BW[..., None]], dim=2)
        if level + 1 < num_levels:
            beams = Beams(nodes=taken_BW, codes=taken_BW, scores=scores_BW, parents=parents_BW)
            log_probs_BWK = scorer.advance(beams).float().log_softmax(-1)
    return UnconstrainedRanking(codes_BWL, scores_BW)


@torch.inference_mode()
def illegal_mass(scorer: LevelScorer, codes_BL: torch.Tensor, legal_BLK: torch.Tensor) -> torch.Tensor:
    """Return the probability [B, L] that the next code after a prefix of `codes_BL` continues to no item.

    Args:
        scorer: the model, prompted.
        codes_BL: a path through the trie for every prompt.
        legal_BLK: bool, the legal codes at each step of that path.
    """
    mass = [_outside(scorer.start(), legal_BLK[:, 0])]
    parents_B1 = codes_BL.new_zeros((len(codes_BL), 1))
    for level in range(1, codes_BL.shape[1]):
        taken_B1 = codes_BL[:, level - 1 : level]
        beams = Beams(nodes=taken_B1, codes=taken_B1, scores=taken_B1.float(), parents=parents_B1)
        mass.append(_outside(scorer.advance(beams)[:, 0], legal_BLK[:, level]))
    return torch.stack(mass, dim=1)


def _outside(logits_BK: torch.Tensor, legal_BK: torch.Tensor) -> torch.Tensor:
    return logits_BK.float().softmax(-1).masked_fill(legal_BK, 0.0).sum(dim=1)
