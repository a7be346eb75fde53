"""The few collectives trialign needs, which are the identity in a process that runs alone."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _distributed() else 1


def rank() -> int:
    """Return which of them this is."""
    return dist.get_rank() if _distributed() else 0


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of `tensor` over all ranks, on every rank; the argument is left alone."""
    if not _distributed():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


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
