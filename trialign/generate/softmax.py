"""Cross-entropy over a large table of answers, computed in chunks without the full matrix of logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

ROWS = 128
"""Predictions scored at a time: their logits over some 10^4 answers stay in the cache of a core."""


class Marks(NamedTuple):
    """Entries of a matrix of logits that get a learned bias.

    `rows_Q`, `columns_Q`: int64, distinct and sorted by row; `bias`: [1].
    """

    rows_Q: torch.Tensor
    columns_Q: torch.Tensor
    bias: torch.Tensor


def add_at(logits: torch.Tensor, places: tuple[torch.Tensor, ...], bias: torch.Tensor) -> torch.Tensor:
    """Return logits of any shape with `bias` [1] added at distinct entries: one index [Q] per dimension."""
    return logits.index_put(places, bias.to(logits.dtype).expand(len(places[0])), accumulate=True)


class Scored(NamedTuple):
    """The cross-entropy of a set of predictions, in nats.

    `total`: scalar with gradient. Without gradient: `losses_M`; `correct_M`, whether the answer has the largest logit
    (a tie counts).
    """

    total: torch.Tensor
    losses_M: torch.Tensor
    correct_M: torch.Tensor


def table_cross_entropy(
    queries_MD: torch.Tensor, table_CD: torch.Tensor, answers_M: torch.Tensor, marks: Marks | None = None
) -> Scored:
    """Return the cross-entropy of `queries_MD @ table_CD.T`, with a bias at `marks`, over its C columns.

    Equal to `torch.nn.functional.cross_entropy` of the full matrix, in a third of the time on a CPU: logits, loss and
    gradients are computed for a few rows at a time. Matrix products run in the autocast dtype, everything else in
    float32. Differentiable once, through `total`.

    Args:
        queries_MD: hidden states of the predictions; M may be 0.
        table_CD: one vector per answer.
        answers_M: int64, the targets.
        marks: where the logits get a bias; None: nowhere.
    """
    if marks is None:
        nowhere = answers_M.new_empty(0)
        marks = Marks(nowhere, nowhere, queries_MD.new_zeros(1))
    device = queries_MD.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    return Scored(*_TableCrossEntropy.apply(queries_MD, table_CD, answers_M, product, *marks))


class _TableCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries_MD: torch.Tensor,
        table_CD: torch.Tensor,
        answers_M: torch.Tensor,
        product: torch.dtype,
        rows_Q: torch.Tensor,
        columns_Q: torch.Tensor,
        bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        queries, table = queries_MD.detach().to(product), table_CD.detach().to(product)
        grad_queries = torch.empty_like(queries_MD, dtype=torch.float32)
        grad_table = torch.zeros_like(table_CD, dtype=torch.float32)
        losses = queries_MD.new_empty(len(answers_M), dtype=torch.float32)
        correct = torch.empty_like(answers_M, dtype=torch.bool)
        grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        starts = torch.arange(0, len(answers_M) + ROWS, ROWS, device=rows_Q.device)
        ends = torch.searchsorted(rows_Q, starts).tolist()
        for number, start in enumerate(range(0, len(answers_M), ROWS)):
            rows = slice(start, start + ROWS)
            mine = slice(ends[number], ends[number + 1])
            marked = rows_Q[mine] - start, columns_Q[mine]
            right = answers_M[rows, None]
            logits = (queries[rows] @ table.T).float()
            logits[marked] += bias
            chosen = logits.gather(1, right)
            correct[rows] = (chosen >= logits.amax(dim=1, keepdim=True)).squeeze(1)
            evidence = logits.logsumexp(dim=1, keepdim=True)
            losses[rows] = (evidence - chosen).squeeze(1)
            # d loss / d logits = softmax - one-hot
            slopes = logits.sub_(evidence).exp_().scatter_add_(1, right, torch.full_like(chosen, -1.0))
            grad_bias += slopes[marked].sum()
            slopes = slopes.to(product)
            grad_queries[rows] = (slopes @ table).float()
            grad_table += (slopes.T @ queries[rows]).float()
        ctx.save_for_backward(grad_queries.to(queries_MD.dtype), grad_table.to(table_CD.dtype), grad_bias)
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        grad_queries, grad_table, grad_bias = ctx.saved_tensors
        return grad_queries * slope, grad_table * slope, None, None, None, None, grad_bias * slope
