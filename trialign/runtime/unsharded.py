"""A temporary unsharded copy of a sharded module (FSDP2, ZeRO-3).

Under FSDP2 and ZeRO-3 no rank holds a whole parameter, and gathering one is a collective. All but the training step
(search, validation, saving) uses a copy that is filled before and emptied after: a plain module, in which ranks may
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
        module: copied before it is sharded; tied parameters stay tied in the copy.
    """

    def __init__(self, module: M) -> None:
        hollow = {id(p): nn.Parameter(torch.empty(0), requires_grad=p.requires_grad) for p in module.parameters()}
        self.module = copy.deepcopy(module, hollow)  # type: ignore[arg-type]  # what is in the memo is not copied

    def fill(self, module: nn.Module) -> None:
        """Copy the full parameters of the sharded module, which must have the same structure; a collective.

        The copy's buffers, which are never sharded, move to the device of the parameters.
        """
        for (name, parameter), (other, cut) in zip(
            self.module.named_parameters(), module.named_parameters(), strict=True
        ):
            assert name == other, (name, other)
            parameter.data = whole(cut)
        self.module.to(parameter.device)

    def empty(self) -> None:
        """Free the memory of the parameters."""
        for parameter in self.module.parameters():
            parameter.data = torch.empty(0)


def whole(parameter: nn.Parameter) -> torch.Tensor:
    """Return the full value of a parameter, in its own memory, on every rank; a collective if it is sharded."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    value: torch.Tensor = parameter.detach()
    if isinstance(value, DTensor):
        value = value.full_tensor()  # which may be a view of what was gathered
    return value.clone()
