"""Binary cross-entropy in sums, good and bad pairs weighing the same in all."""

from __future__ import annotations

import torch
from torch.nn import functional


def balanced_loss(logits_B: torch.Tensor, good_B: torch.Tensor, share: float) -> torch.Tensor:
    """Return the summed loss.

    Args:
        logits_B: of pairs being good.
        good_B: bool, whether they are.
        share: of good pairs among those trained on; the rarer kind weighs more, so that both weigh half.
    """
    weights_B = torch.where(good_B, 0.5 / share, 0.5 / (1.0 - share))
    return (weights_B * functional.binary_cross_entropy_with_logits(logits_B, good_B.float(), reduction="none")).sum()
