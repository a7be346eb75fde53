"""The contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3), in sums and counts.

Shapes: B pairs of this rank, G pairs of all ranks, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def info_nce(
    image_BD: Tensor, text_BD: Tensor, all_image_GD: Tensor, all_text_GD: Tensor, scale: Tensor, first: int
) -> tuple[Tensor, int]:
    """Return the summed loss of this rank's pairs in both directions, and the number of terms in the sum.

    Each picture is classified against the texts of all ranks, each text against the pictures of all ranks. The gathered
    vectors carry gradients, so negatives on other ranks are trained too.

    Args:
        image_BD: vectors of length 1.
        text_BD: likewise.
        all_image_GD: those of all ranks, in the order of ranks.
        all_text_GD: likewise.
        scale: factor of the cosines, the inverse temperature.
        first: row of the gathered vectors at which this rank's begin.
    """
    own_B = torch.arange(first, first + len(image_BD), device=image_BD.device)
    to_text = cross_entropy(scale * image_BD @ all_text_GD.T, own_B, reduction="sum")
    to_image = cross_entropy(scale * text_BD @ all_image_GD.T, own_B, reduction="sum")
    return to_text + to_image, 2 * len(image_BD)
