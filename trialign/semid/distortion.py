"""Modality distortion: the share of an item's nearest neighbors in each modality that quantization preserves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialign.embed.store import Modality
from trialign.progress import tracked
from trialign.runtime.seeding import numpy_generator
from trialign.semid.record import Neighbourhood

NUM_NEIGHBOURS = 10
_SAMPLE, _QUERIES = 4096, 1024
"""Items that are looked at, and those of them whose neighbours are sought: the cost is their product."""


def neighbourhoods(
    codes_NL: NDArray[np.int64],
    latents_ND: NDArray[np.float32],
    codebooks_LKD: NDArray[np.float32],
    modalities: Mapping[str, Modality],
) -> dict[str, Neighbourhood]:
    """Return, for each modality, the overlap of an item's ten nearest neighbors with those in latents and semantic IDs.

    Args:
        codes_NL: the semantic IDs; a level without a codebook (a suffix) is ignored.
        latents_ND: the vectors that were quantized.
        codebooks_LKD: an item's quantized vector is the sum of its codes' vectors.
        modalities: all modalities of the embed stage, quantized or not.
    """
    levels = np.arange(len(codebooks_LKD))
    quantized_ND = codebooks_LKD[levels, codes_NL[:, : len(levels)]].sum(axis=1)
    found = {}
    for name, modality in tracked(modalities.items(), "modalities compared"):
        draws = numpy_generator(0, "semid", "distortion")
        sample = draws.permutation(np.flatnonzero(modality.present_N))[:_SAMPLE]
        if len(sample) <= NUM_NEIGHBOURS:
            continue
        near_QW = _nearest(modality.vectors_ND[sample])
        quantized_SD = quantized_ND[sample]
        found[name] = Neighbourhood(
            num_items=len(sample),
            before=shared(near_QW, _nearest(latents_ND[sample])),
            after=shared(near_QW, _nearest(quantized_SD)),
            random_codes=shared(near_QW, _nearest(draws.permutation(quantized_SD))),
        )
    return found


def shared(one_QW: Tensor, other_QW: Tensor) -> float:
    """Return the mean overlap of the rows of `one_QW` with those of `other_QW`, as a share."""
    return float((one_QW[:, :, None] == other_QW[:, None, :]).any(dim=2).float().mean())


def _nearest(vectors_SD: NDArray[np.float32]) -> Tensor:
    """Return the indices of the nearest neighbors of the first `_QUERIES` vectors, int64 [Q, NUM_NEIGHBOURS]."""
    points_SD = torch.from_numpy(np.ascontiguousarray(vectors_SD))
    # Centered, because float32 loses the differences of vectors far from the origin.
    points_SD = points_SD - points_SD.mean(dim=0)
    distances_QS = torch.cdist(points_SD[:_QUERIES], points_SD)
    distances_QS.fill_diagonal_(torch.inf)
    return distances_QS.topk(NUM_NEIGHBOURS, largest=False).indices
