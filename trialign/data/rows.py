"""Packed rows: several examples side by side in one row of T positions, and the batches made of such rows.

A row is the unit a lane deals in. What an example's tokens mean is none of this module's business.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.errors import DataError


@dataclass(frozen=True)
class TokenizedExample:
    """One example as its task wrote it.

    Attributes:
        tokens: int64 [n]; none at all means that there is nothing to learn here, and the example takes no room.
        targets: bool [n], whether the loss is taken on predicting this token.
        task: index of the task in the mixture.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.bool_]
    task: int


@dataclass(frozen=True)
class Row:
    """One packed row, and the state of its lane after it. Numpy, because rows cross process borders as bytes.

    Attributes:
        tokens, targets, segments, positions, tasks: [T], as in `RowBatch`.
        lane: the lane it comes from.
        window: number of the window that the lane's next row comes from.
        row: number of that next row inside its window.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.bool_]
    segments: NDArray[np.int32]
    positions: NDArray[np.int64]
    tasks: NDArray[np.int64]
    lane: int
    window: int
    row: int


@dataclass(frozen=True)
class RowBatch:
    """One micro-batch: R rows of T positions.

    Attributes:
        tokens_RT: int64; 0 where padded.
        targets_RT: bool; the loss is taken on predicting these tokens.
        segments_RT: int32; 1, 2, ... number the examples of a row, 0 is padding.
        positions_RT: int64; restart at 0 with every example, and once more where the padding begins.
        tasks_RT: int64; the task of a position's example, 0 where padded.
        step_targets: target tokens of this rank in the whole optimizer step, the same in each of its micro-batches.
        first_of_step: whether the optimizer step begins here.
        lanes_R, windows_R, rows_R: int64; each row's lane and the state (window, row) of that lane after it.
    """

    tokens_RT: torch.Tensor
    targets_RT: torch.Tensor
    segments_RT: torch.Tensor
    positions_RT: torch.Tensor
    tasks_RT: torch.Tensor
    step_targets: int
    first_of_step: bool
    lanes_R: torch.Tensor
    windows_R: torch.Tensor
    rows_R: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RowBatch:
        """Return the batch with its tensors on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Distribute examples over rows by best-fit decreasing.

    The longest example goes first, each into the row it leaves the least room in. Needs at most 11/9 of the fewest
    possible rows plus one (Johnson 1973); far fewer in practice, because short examples fill the gaps.

    Args:
        lengths: tokens of each example; empty examples are left out.
        row_tokens: positions of a row.

    Returns:
        For each row the indices of its examples.

    Raises:
        DataError: an example is longer than a row.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free positions, row), ascending
    for example in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[example]
        if length == 0:
            break
        if length > row_tokens:
            raise DataError(
                f"an example of {length} tokens does not fit into a row of {row_tokens}",
                rule="a row holds its examples whole",
                remedy=f"set stream.row_tokens={length} or more, or a smaller data.max_history",
            )
        tightest = bisect_left(rooms, (length, -1))
        if tightest == len(rooms):
            room, row = row_tokens, len(rows)
            rows.append([])
        else:
            room, row = rooms.pop(tightest)
        rows[row].append(example)
        insort(rooms, (room - length, row))
    return rows


def fill_row(examples: Sequence[TokenizedExample], row_tokens: int, *, lane: int, window: int, row: int) -> Row:
    """Lay examples side by side in one row, padded to `row_tokens`."""
    lengths = [len(example.tokens) for example in examples]
    padding = row_tokens - sum(lengths)
    every = [*lengths, padding]
    return Row(
        tokens=np.concatenate([*(example.tokens for example in examples), np.zeros(padding, np.int64)]),
        targets=np.concatenate([*(example.targets for example in examples), np.zeros(padding, np.bool_)]),
        segments=np.repeat(np.array([*range(1, len(examples) + 1), 0], np.int32), every),
        # Padding is one more isolated sequence, so that no attention row is ever empty.
        positions=np.concatenate([np.arange(length, dtype=np.int64) for length in every]),
        tasks=np.repeat(np.array([*(example.task for example in examples), 0], np.int64), every),
        lane=lane,
        window=window,
        row=row,
    )


def stack_rows(rows: Sequence[Row], *, step_targets: int, first_of_step: bool) -> RowBatch:
    """Collate rows into a micro-batch."""

    def stacked(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(row, name) for row in rows]))

    return RowBatch(
        tokens_RT=stacked("tokens"),
        targets_RT=stacked("targets"),
        segments_RT=stacked("segments"),
        positions_RT=stacked("positions"),
        tasks_RT=stacked("tasks"),
        step_targets=step_targets,
        first_of_step=first_of_step,
        lanes_R=torch.tensor([row.lane for row in rows]),
        windows_R=torch.tensor([row.window for row in rows]),
        rows_R=torch.tensor([row.row for row in rows]),
    )
