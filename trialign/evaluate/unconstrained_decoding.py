"""Unconstrained decoding: how often a generator outputs codes of no item without the trie (method.md 10)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.decode.unconstrained import illegal_mass, unconstrained_search
from trialign.evaluate.record import UnconstrainedDecoding
from trialign.generate.ranker import GeneratorRanker
from trialign.progress import tracked
from trialign.semid.table import flat_codes
from trialign.types import Items


def unconstrained_decoding(
    ranker: GeneratorRanker,
    codes_NL: NDArray[np.int64],
    codebook_size: int,
    histories: Sequence[Items],
    targets: Sequence[Items],
    *,
    places: int = 10,
) -> UnconstrainedDecoding:
    """Return the share of the best beams that are not items, and the probability mass of illegal codes.

    Args:
        ranker: the generator, with the beams and batches of the constrained search.
        codes_NL: the semantic IDs.
        codebook_size: K.
        histories: U histories.
        targets: the next items; illegal mass is measured along the path of the first of each.
        places: how many of the best beams are checked.
    """
    num_levels = codes_NL.shape[1]
    if ranker.generator.items.items_only:
        return UnconstrainedDecoding(0.0, 0.0, [0.0] * num_levels, len(histories), by_construction=True)
    known = flat_codes(codes_NL, codebook_size)
    wrong_first = wrong_places = num_places = 0
    mass_L = torch.zeros(num_levels, dtype=torch.float64)
    for users in tracked(ranker.batches(histories), "searches without the trie", ranker.num_batches(histories)):
        scorer = ranker.scorer([histories[user] for user in users])
        found = unconstrained_search(scorer, num_levels, ranker.num_beams)
        codes = found.codes[:, :places].cpu().numpy()
        wrong = ~np.isin(flat_codes(codes.reshape(-1, num_levels), codebook_size), known).reshape(codes.shape[:2])
        wrong_first += int(wrong[:, 0].sum())
        wrong_places += int(wrong.sum())
        num_places += wrong.size
        path_BL = codes_NL[[int(targets[user][0]) for user in users]]
        scorer = ranker.scorer([histories[user] for user in users])
        legal_BLK = torch.from_numpy(_legal(codes_NL, path_BL, codebook_size)).to(found.codes.device)
        on_path = illegal_mass(scorer, torch.from_numpy(path_BL).to(found.codes.device), legal_BLK)
        mass_L += on_path.sum(dim=0).double().cpu()
    return UnconstrainedDecoding(
        invalid_rate=wrong_first / len(histories),
        invalid_rate_at_10=wrong_places / num_places,
        illegal_mass=(mass_L / len(histories)).tolist(),
        num_users=len(histories),
        by_construction=False,
    )


def _legal(codes_NL: NDArray[np.int64], path_BL: NDArray[np.int64], codebook_size: int) -> NDArray[np.bool_]:
    """Return the legal codes after the first 0..L-1 codes of every path: bool [B, L, K]."""
    num_levels = codes_NL.shape[1]
    legal_BLK = np.zeros((len(path_BL), num_levels, codebook_size), bool)
    for level in range(num_levels):
        prefixes, numbers_N = np.unique(flat_codes(codes_NL[:, :level], codebook_size), return_inverse=True)
        table = np.zeros((len(prefixes), codebook_size), bool)
        table[numbers_N, codes_NL[:, level]] = True
        legal_BLK[:, level] = table[np.searchsorted(prefixes, flat_codes(path_BL[:, :level], codebook_size))]
    return legal_BLK
