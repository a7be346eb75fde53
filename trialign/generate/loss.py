"""Autoregressive cross-entropy (method.md 6) as sums and counts, normalized by the global batch's target tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from trialign.errors import TrainingError
from trialign.generate.softmax import Marks, Scored, table_cross_entropy
from trialign.runtime.collectives import all_reduce_sum


class Predictions(NamedTuple):
    """Predictions at M target positions over one common set of C answers.

    `logits_MC`; `answers_M`: int64, the target among the C; `tasks_M`: int64, the example's task.
    """

    logits_MC: torch.Tensor
    answers_M: torch.Tensor
    tasks_M: torch.Tensor

    def score(self) -> Scored:
        """Return the cross-entropy."""
        losses_M = functional.cross_entropy(self.logits_MC.float(), self.answers_M, reduction="none")
        # Compared with the max, not the argmax: a tie for first is correct, and an empty group needs no special case.
        correct_M = self.logits_MC.gather(1, self.answers_M[:, None]).squeeze(1) >= self.logits_MC.amax(dim=1)
        return Scored(losses_M.sum(), losses_M.detach(), correct_M)


class TablePredictions(NamedTuple):
    """Predictions over many answers: the logits `queries_MD @ table_CD.T` are computed in chunks, never all at once.

    `marks`: where they get a bias.
    """

    queries_MD: torch.Tensor
    table_CD: torch.Tensor
    answers_M: torch.Tensor
    tasks_M: torch.Tensor
    marks: Marks | None = None

    def score(self) -> Scored:
        """Return the cross-entropy."""
        return table_cross_entropy(self.queries_MD, self.table_CD, self.answers_M, self.marks)


class LossSums(NamedTuple):
    """Loss, token counts and correct predictions, summed over target tokens.

    `total`: scalar with gradient. By task, without gradient, float32 [num_tasks]: `losses`, `counts` of target tokens,
    and `correct`, the number of correct top-1 predictions.
    """

    total: torch.Tensor
    losses: torch.Tensor
    counts: torch.Tensor
    correct: torch.Tensor


def autoregressive_loss(groups: Sequence[Predictions | TablePredictions], num_tasks: int) -> LossSums:
    """Return the summed cross-entropy of groups of predictions, in nats, each over its own set of answers."""
    total = torch.zeros((), device=groups[0].answers_M.device)
    by_task = torch.zeros(3, num_tasks, device=total.device)
    for group in groups:
        scored = group.score()
        total = total + scored.total
        losses_M = scored.losses_M
        counted = torch.stack([losses_M, torch.ones_like(losses_M), scored.correct_M.float()])
        by_task.index_add_(1, group.tasks_M, counted)
    return LossSums(total, *by_task)


def step_totals(step_targets: int, asked: bool, device: torch.device) -> tuple[torch.Tensor, bool]:
    """Return N, the target tokens of the step over all ranks, and whether any rank was asked to stop after it.

    One collective for both; every rank must call it.

    Args:
        step_targets: target tokens of this rank in the step.
        asked: whether this rank was asked to save and stop.
        device: where collectives run.

    Raises:
        TrainingError: the step has no target token.
    """
    totals = all_reduce_sum(torch.tensor([step_targets, asked], dtype=torch.int64, device=device))
    num_targets, num_asked = totals.tolist()
    if num_targets == 0:
        raise TrainingError(
            "an optimizer step without a single target token",
            rule="the loss is a mean over the target tokens of a step",
            remedy="raise stream.global_batch_size or stream.seq_len, or look for windows that hold no target",
        )
    return totals[0], num_asked > 0


def scaled_loss(total: torch.Tensor, num_targets: torch.Tensor, *, world_size: int, accumulation: int) -> torch.Tensor:
    """Return `sum x W x d / N` (method.md 6).

    Data parallelism averages gradients over W ranks, and the trainer divides each micro-batch by d. Both are undone
    here, so that the loss is the mean over all target tokens of the step, whatever their distribution.
    """
    return total * (world_size * accumulation / num_targets)
