"""Sample items from a generator over the trie, with or without replacement.

Without replacement is stochastic beam search (Kool, van Hoof & Welling 2019): every item gets a Gumbel-perturbed
log-probability, and the W largest are W draws without replacement. A node's children are perturbed given their parent's
perturbed value, level by level, so only W prefixes are ever expanded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from trialign.decode.beam import LevelScorer
from trialign.decode.index import PrefixIndex
from trialign.decode.step import Beams, Children, legal_children
from trialign.types import NO_ITEM


class Sample(NamedTuple):
    """`items`: int64 [B, G], NO_ITEM where nothing is left to draw; `log_probs`: float32 [B, G], -inf there."""

    items: torch.Tensor
    log_probs: torch.Tensor


@torch.inference_mode()
def sample(
    scorer: LevelScorer, index: PrefixIndex, num_samples: int, draws: torch.Generator, *, replacement: bool
) -> Sample:
    """Draw items of the catalogue from the distribution that beam search ranks by (method.md 7).

    Args:
        scorer: the model with its prompts.
        index: the catalogue's prefixes, on the scorer's device.
        num_samples: G, draws per prompt; without replacement fewer are returned where the catalogue is smaller.
        draws: the random generator, on the scorer's device.
        replacement: draw independently, so that items may repeat; otherwise items are distinct, in the order drawn.
    """
    logits_BWK = scorer.start()[:, None]
    num_prompts, width = len(logits_BWK), num_samples if replacement else 1
    nodes_BW = torch.zeros((num_prompts, width), dtype=torch.int64, device=logits_BWK.device)
    scores_BW = torch.zeros((num_prompts, width), device=logits_BWK.device)
    perturbed_BW = torch.zeros_like(scores_BW)
    logits_BWK = logits_BWK.expand(-1, width, -1)
    for level in range(index.num_levels):
        children = legal_children(nodes_BW, level, logits_BWK, index)
        if replacement:
            beams = _independent(children, scores_BW, draws)
        else:
            beams, perturbed_BW = _distinct(children, scores_BW, perturbed_BW, num_samples, draws)
        nodes_BW, scores_BW = beams.nodes, beams.scores
        if level + 1 < index.num_levels:
            # At the first level all draws share the prompt's state; after it each draw is a beam of its own.
            parents_BW = torch.zeros_like(beams.parents) if level == 0 else beams.parents
            logits_BWK = scorer.advance(beams._replace(parents=parents_BW))
    items_BW = index.items[nodes_BW].masked_fill(scores_BW == -torch.inf, NO_ITEM)
    missing = num_samples - items_BW.shape[1]
    return Sample(
        torch.nn.functional.pad(items_BW, (0, missing), value=NO_ITEM),
        torch.nn.functional.pad(scores_BW, (0, missing), value=-torch.inf),
    )


def _independent(children: Children, scores_BW: torch.Tensor, draws: torch.Generator) -> Beams:
    num_prompts, num_beams, width = children.log_probs.shape
    slots_BW = torch.multinomial(children.log_probs.exp().flatten(0, 1), 1, generator=draws).view(
        num_prompts, num_beams
    )
    added_BW = children.log_probs.gather(2, slots_BW[..., None]).squeeze(2)
    return children.take(slots_BW + width * torch.arange(num_beams, device=slots_BW.device), scores_BW + added_BW)


def _distinct(
    children: Children, scores_BW: torch.Tensor, perturbed_BW: torch.Tensor, num_samples: int, draws: torch.Generator
) -> tuple[Beams, torch.Tensor]:
    """Return the prefixes with the largest perturbed log-probabilities, and these values."""
    totals_BWC = scores_BW[..., None] + children.log_probs
    noise_BWC = torch.empty_like(totals_BWC).exponential_(generator=draws).clamp_min_(1e-30).log_().neg_()
    gumbels_BWC = totals_BWC + noise_BWC
    # The largest of a node's children must equal the node's own perturbed value (Kool et al., algorithm 1, line 12).
    largest_BW1 = gumbels_BWC.amax(dim=2, keepdim=True)
    parent_BW1 = perturbed_BW[..., None]
    gap_BWC = parent_BW1 - gumbels_BWC + torch.log1p(-torch.exp(gumbels_BWC - largest_BW1))
    shifted_BWC = parent_BW1 - gap_BWC.clamp_min(0) - torch.log1p(torch.exp(-gap_BWC.abs()))
    # Empty beams and missing children are -inf; the arithmetic above made them NaN, so they are reset.
    shifted_BWC = shifted_BWC.masked_fill(totals_BWC == -torch.inf, -torch.inf)
    kept = min(num_samples, shifted_BWC.flatten(1).shape[1])
    perturbed_BW, chosen_BW = shifted_BWC.flatten(1).topk(kept, dim=1)
    return children.take(chosen_BW, totals_BWC.flatten(1).gather(1, chosen_BW)), perturbed_BW
