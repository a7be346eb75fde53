"""The learning rate by hand, and which parameters weight decay leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trialign.runtime.optim import adamw, cosine_with_warmup


def rates(num_steps: int, warmup: float) -> list[float]:
    """The rate of every step, and the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_with_warmup(optimizer, num_steps=num_steps, warmup=warmup)
    found = []
    for _ in range(num_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_to_its_peak_and_falls_to_zero_by_a_cosine() -> None:
    # Four steps of warm-up, quarter by quarter, none of them without effect; then the half cosine over six.
    falling = [2.0, 1.8660254, 1.5, 1.0, 0.5, 0.1339746, 0.0]
    assert rates(10, 0.4) == pytest.approx([0.5, 1.0, 1.5, 2.0, *falling])


def test_without_warmup_the_first_step_has_the_peak() -> None:
    assert rates(2, 0.0) == pytest.approx([2.0, 2.0, 0.0])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 3, bias=False)
        self.head.weight = self.table.weight  # tied: the table stays a table


def test_weight_decay_shrinks_matrices_and_nothing_else() -> None:
    model = Model()
    nn.init.constant_(model.hidden.bias, 1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5, betas=(0.8, 0.95))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.state_dict().items():
        # With gradients of zero AdamW does nothing but decay: by learning rate x weight decay.
        torch.testing.assert_close(value, before[name] * (0.95 if name == "hidden.weight" else 1.0), msg=name)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


def test_past_its_last_step_the_rate_stays_at_zero() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_with_warmup(optimizer, num_steps=4, warmup=0.25)
    for _ in range(6):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
