"""A module whose parameters are cut up over the ranks, whole again for a while.

Under FSDP2 and ZeRO-3 no rank holds a whole parameter, and asking for one is a collective. Whatever is no training step
(search, validation, saving) works on a copy that is filled for it and emptied after: a plain module, in which ranks may
take as many steps as they like.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor

M = TypeVar("M", bound=nn.Module)


class UnshardedCopy(Generic[M]):
    """A copy of a module without memory for its parameters, until it is filled.

    Args:
        module: copied before it is cut up; parameters that are shared in it are shared in the copy.
    """

    def __init__(self, module: M) -> None:
        hollow = {id(p): nn.Parameter(torch.empty(0), requires_grad=p.requires_grad) for p in module.parameters()}
        self.module = copy.deepcopy(module, hollow)  # type: ignore[arg-type]  # what is in the memo is not copied

    def fill(self, module: nn.Module) -> None:
        """Take the parameters from the module that was cut up, which must be of the same structure; a collective.

        The copy's buffers, which are never cut up, follow to where the parameters are.
        """
        for (name, parameter), (other, cut) in zip(
            self.module.named_parameters(), module.named_parameters(), strict=True
        ):
            assert name == other, (name, other)
            parameter.data = whole(cut)
        self.module.to(parameter.device)

    def empty(self) -> None:
        """Give the memory back."""
        for parameter in self.module.parameters():
            parameter.data = torch.empty(0)


def whole(parameter: nn.Parameter) -> torch.Tensor:
    """Return a parameter's whole value, memory of its own, on every rank; a collective where it is cut up."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    value: torch.Tensor = parameter.detach()
    if isinstance(value, DTensor):
        value = value.full_tensor()  # which may be a view of what was gathered
    return value.clone()
