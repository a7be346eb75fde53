"""The GRPO loss of method.md 9 as sums and counts: the clipped ratio and the exact KL from the reference."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trialign.decode.path import ItemPaths, divergence, entropy


class PolicySums(NamedTuple):
    """The loss and its metrics, summed over candidates.

    `total`: scalar with gradient. Without gradient: `policy`, its first part; `kl` and `entropy`, in nats, along each
    candidate's path; `clipped`, the number of ratios outside the clip range; `candidates`, their number.
    """

    total: torch.Tensor
    policy: torch.Tensor
    kl: torch.Tensor
    entropy: torch.Tensor
    clipped: torch.Tensor
    candidates: torch.Tensor


def policy_loss(
    now: ItemPaths,
    then_BG: torch.Tensor,
    reference: list[torch.Tensor],
    advantages_BG: torch.Tensor,
    *,
    clip: float,
    kl_weight: float,
) -> PolicySums:
    """Return the summed GRPO loss of groups of candidates.

    Per candidate `-min(r A, clip(r, 1 - clip, 1 + clip) A) + kl_weight * KL`, with r = p_now / p_then the ratio of the
    item's probabilities. An item is one action, however many codes it has (Schulman et al. 2017, equation 7; Zheng et
    al. 2025 for the ratio of whole sequences).

    Args:
        now: the policy's item paths, with gradient.
        then_BG: log-probabilities of the candidates when they were sampled.
        reference: `ItemPaths.levels` of the reference.
        advantages_BG: as `advantages`.
        clip: how far the ratio may move from 1.
        kl_weight: weight of the KL term.
    """
    num_items = then_BG.shape[1]
    ratio_BG = (now.log_probs_BG - then_BG).exp()
    bounded_BG = ratio_BG.clamp(1.0 - clip, 1.0 + clip)
    policy = -torch.minimum(ratio_BG * advantages_BG, bounded_BG * advantages_BG).sum()
    kl = divergence(now.levels, reference, num_items).sum()
    with torch.no_grad():
        spread = entropy(now.levels, num_items).sum()
        clipped = (ratio_BG != bounded_BG).sum()
    candidates = torch.tensor(then_BG.numel(), device=then_BG.device)
    return PolicySums(policy + kl_weight * kl, policy.detach(), kl.detach(), spread, clipped, candidates)
