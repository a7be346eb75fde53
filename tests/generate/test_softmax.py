"""The fused cross-entropy is torch's, value and gradient, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trialign.generate.softmax import ROWS, table_cross_entropy


def inputs(num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(num_rows)
    queries = torch.randn(num_rows, 8, generator=draws).requires_grad_()
    table = torch.randn(50, 8, generator=draws).requires_grad_()
    return queries, table, torch.randint(50, (num_rows,), generator=draws)


@pytest.mark.parametrize("num_rows", [0, 1, ROWS, 2 * ROWS + 7])
def test_value_and_gradients_are_those_of_the_full_matrix(num_rows: int) -> None:
    queries, table, answers = inputs(num_rows)
    scored = table_cross_entropy(queries, table, answers)
    logits = queries @ table.T
    losses = functional.cross_entropy(logits, answers, reduction="none")
    torch.testing.assert_close(scored.losses_M, losses)
    torch.testing.assert_close(scored.total, losses.sum())
    assert torch.equal(scored.correct_M, logits.argmax(1) == answers if num_rows else answers.bool())
    found = torch.autograd.grad(3.0 * scored.total, (queries, table))
    expected = torch.autograd.grad(3.0 * losses.sum(), (queries, table))
    torch.testing.assert_close(found, expected)


def test_under_autocast_products_are_rounded_and_sums_are_not() -> None:
    queries, table, answers = inputs(ROWS + 1)
    exact = table_cross_entropy(queries, table, answers)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = table_cross_entropy(queries, table, answers)
    assert rounded.total.dtype == torch.float32
    assert not torch.equal(rounded.total, exact.total)
    torch.testing.assert_close(rounded.total, exact.total, rtol=1e-2, atol=0.0)
    found, expected = (torch.autograd.grad(scored.total, (queries, table)) for scored in (rounded, exact))
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_under_autocast_losses_are_float32_of_the_rounded_products() -> None:
    """Sums in bfloat16 would hold two or three digits of every loss."""
    queries, table, answers = inputs(ROWS + 1)
    with torch.autocast("cpu", torch.bfloat16):
        scored = table_cross_entropy(queries, table, answers)
        logits = queries @ table.T
    assert logits.dtype == torch.bfloat16
    losses = functional.cross_entropy(logits.float(), answers, reduction="none")
    torch.testing.assert_close(scored.losses_M, losses)
    torch.testing.assert_close(scored.total, losses.sum())


def test_an_answer_that_ties_for_first_counts() -> None:
    scored = table_cross_entropy(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([2]))
    assert scored.correct_M.tolist() == [True]
