"""AdamW as language models are trained with it, and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class OptimizerSettings(Protocol):
    """Settings of AdamW and its schedule, as `TrainConfig` and `RLConfig` have them."""

    learning_rate: float
    weight_decay: float
    betas: list[float]
    warmup: float


def adamw(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: Sequence[float] = (0.9, 0.999)
) -> AdamW:
    """Return AdamW over the trainable parameters of `module`.

    Weight decay leaves out vectors (norms, biases) and embedding tables: shrinking those pulls rare rows, which see few
    gradients, towards zero.
    """
    embeddings = {id(p) for child in module.modules() if isinstance(child, nn.Embedding) for p in child.parameters()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or id(parameter) in embeddings
            (kept if spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(betas[0], betas[1]))


def cosine_with_warmup(optimizer: Optimizer, *, num_steps: int, warmup: float) -> LambdaLR:
    """Return a schedule that rises linearly over `warmup`, a share of `num_steps`, then falls to zero by a cosine."""
    num_warmup = max(1, round(warmup * num_steps))

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
