"""Class-balanced binary cross-entropy, as a sum over pairs."""

from __future__ import annotations

import torch
from torch.nn import functional


def balanced_loss(logits_B: torch.Tensor, good_B: torch.Tensor, share: float) -> torch.Tensor:
    """Return the summed loss of a batch of pairs.

    Args:
        logits_B: of pairs being good.
        good_B: bool, whether they are.
        share: of good pairs in the training set; each class gets half of the total weight.
    """
    weights_B = torch.where(good_B, 0.5 / share, 0.5 / (1.0 - share))
    return (weights_B * functional.binary_cross_entropy_with_logits(logits_B, good_B.float(), reduction="none")).sum()
