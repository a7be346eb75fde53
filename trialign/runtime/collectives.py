"""The few collectives that trialign needs; in a process without other ranks, each is the identity."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _distributed() else 1


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if _distributed() else 0


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of `tensor` over all ranks, on every rank; the argument is not changed."""
    if not _distributed():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def all_gather_rows(rows_BD: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the rows of all ranks, in rank order, with gradients, and the index of this rank's first row.

    Ranks may hold different numbers of rows, none included.
    """
    if not _distributed():
        return rows_BD, 0
    sizes = all_gather_objects(len(rows_BD))
    gathered: torch.Tensor = _GatherRows.apply(rows_BD, sizes)
    return gathered, sum(sizes[: rank()])


class _GatherRows(torch.autograd.Function):
    """All-gather of rows; backward sums the gradients of all ranks for a row on the rank that owns the row."""

    @staticmethod
    def forward(ctx: Any, rows_BD: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        # Collectives need equal shapes.
        padded = rows_BD.new_zeros(max(sizes), *rows_BD.shape[1:])
        padded[: len(rows_BD)] = rows_BD
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total_GD = all_reduce_sum(gradients[0].contiguous())
        return total_GD.split(ctx.sizes)[rank()], None


def broadcast_(tensor: torch.Tensor) -> None:
    """Overwrite `tensor` with the first rank's, on every rank."""
    if _distributed():
        dist.broadcast(tensor, 0)


def all_gather_objects(thing: T) -> list[T]:
    """Return every rank's `thing`, by rank, on every rank."""
    if not _distributed():
        return [thing]
    parts: list[T] = [thing] * dist.get_world_size()
    dist.all_gather_object(parts, thing)
    return parts


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
