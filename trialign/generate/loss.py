"""The autoregressive cross-entropy of method.md 6, in sums and counts, and the one denominator that makes it exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from trialign.errors import TrainingError
from trialign.runtime.collectives import all_reduce_sum


class Predictions(NamedTuple):
    """What the generator says at M target positions that share one set of C answers.

    `logits_MC`; `answers_M`: int64, the right one of the C; `tasks_M`: int64, the example's task.
    """

    logits_MC: torch.Tensor
    answers_M: torch.Tensor
    tasks_M: torch.Tensor


class LossSums(NamedTuple):
    """Sums over target tokens.

    `total`: scalar, carries the gradient. By task, without gradient, float32 [num_tasks]: `losses`, `counts` of target
    tokens, and `correct`, how many were the first choice.
    """

    total: torch.Tensor
    losses: torch.Tensor
    counts: torch.Tensor
    correct: torch.Tensor


def autoregressive_loss(groups: Sequence[Predictions], num_tasks: int) -> LossSums:
    """Return the summed cross-entropy of groups of predictions, in nats, each over its own set of answers."""
    total = torch.zeros((), device=groups[0].logits_MC.device)
    by_task = torch.zeros(3, num_tasks, device=total.device)
    for logits_MC, answers_M, tasks_M in groups:
        losses_M = functional.cross_entropy(logits_MC.float(), answers_M, reduction="none")
        total = total + losses_M.sum()
        # max, not argmax == answer: an answer that ties for first counts, and an empty group needs no special case.
        with torch.no_grad():
            correct_M = logits_MC.gather(1, answers_M[:, None]).squeeze(1) >= logits_MC.amax(dim=1)
            by_task.index_add_(1, tasks_M, torch.stack([losses_M, torch.ones_like(losses_M), correct_M.float()]))
    return LossSums(total, *by_task)


def step_totals(step_targets: int, asked: bool, device: torch.device) -> tuple[torch.Tensor, bool]:
    """Return N, the target tokens of the whole optimizer step, and whether any rank asked to stop after it.

    One collective for both, called by every rank.

    Args:
        step_targets: target tokens of this rank in the step.
        asked: whether this rank was asked to make room.
        device: where collectives run.

    Raises:
        TrainingError: no token of the step is a target.
    """
    totals = all_reduce_sum(torch.tensor([step_targets, asked], dtype=torch.int64, device=device))
    num_targets, num_asked = totals.tolist()
    if num_targets == 0:
        raise TrainingError(
            "an optimizer step without a single target token",
            rule="the loss is a mean over the target tokens of a step",
            remedy="raise stream.lanes or stream.row_tokens, or look for windows that hold no target",
        )
    return totals[0], num_asked > 0


def scaled_loss(total: torch.Tensor, num_targets: torch.Tensor, *, world_size: int, accumulation: int) -> torch.Tensor:
    """Return `sum x W x d / N` (method.md 6).

    Data parallelism averages gradients over W ranks and the trainer divides each micro-batch by d; both are undone
    here, so that what remains is the mean over all target tokens of the step, however they are spread.
    """
    return total * (world_size * accumulation / num_targets)
