"""Packed rows: several examples side by side in one row of T positions, and the batches made of such rows.

A lane produces rows one by one. This module does not know what the tokens of an example mean.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.errors import DataError
from trialign.stream.blocks import spans

_MOST_PADDING = 0.05


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
class Examples:
    """Many examples, their tokens side by side.

    Attributes:
        tokens: int64, of all examples.
        targets: bool, as many, whether the loss is taken on predicting this token.
        starts: int64 [B], where in `tokens` each example begins.
        lengths: int64 [B]; an example of length 0 takes no room.
        tasks: int64 [B], index of each one's task in the mixture.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.bool_]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    tasks: NDArray[np.int64]

    @classmethod
    def of(cls, examples: Sequence[TokenizedExample]) -> Examples:
        """Return examples that were written one by one."""
        lengths = np.array([len(example.tokens) for example in examples], np.int64)
        return cls(
            tokens=np.concatenate([np.zeros(0, np.int64), *(example.tokens for example in examples)]),
            targets=np.concatenate([np.zeros(0, np.bool_), *(example.targets for example in examples)]),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            tasks=np.array([example.task for example in examples], np.int64),
        )

    @classmethod
    def nothing(cls, num_examples: int) -> Examples:
        """Return that many empty examples."""
        zeros = np.zeros(num_examples, np.int64)
        return cls(zeros[:0], np.zeros(0, np.bool_), zeros, zeros, zeros)

    @classmethod
    def merge(cls, parts: Sequence[Examples], places: NDArray[np.int64]) -> Examples:
        """Return the examples of all parts; the i-th of them, counted through the parts, takes place `places[i]`.

        Places ascend inside a part.
        """
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(places)
        sizes = np.array([len(part.tokens) for part in parts], np.int64)
        before = np.repeat(np.cumsum(sizes) - sizes, [len(part.lengths) for part in parts])
        return cls(
            tokens=np.concatenate([part.tokens for part in parts]),
            targets=np.concatenate([part.targets for part in parts]),
            starts=(np.concatenate([part.starts for part in parts]) + before)[order],
            lengths=np.concatenate([part.lengths for part in parts])[order],
            tasks=np.concatenate([part.tasks for part in parts])[order],
        )


@dataclass(slots=True)  # not frozen: freezing doubles the cost of making one, and there are thousands
class Row:
    """One packed row, and the state of its lane after it. Numpy, because rows cross process borders as bytes.

    Attributes:
        tokens, targets, segments, positions, tasks: [T], as in `RowBatch`, but 32 bits wide where that has 64: rows are
            copied several times before they are collated.
        lane: the lane it comes from.
        start: the example of its lane that the window of the lane's next row begins with.
        row: number of that next row inside its window.
        records: where a sample log is kept, for each example (source, epoch, key of the record).
        skipped: (source, block) of damaged blocks that its lane met since its row before.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.bool_]
    segments: NDArray[np.int32]
    positions: NDArray[np.int32]
    tasks: NDArray[np.int32]
    lane: int
    start: int
    row: int
    records: tuple[tuple[int, int, str | int], ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()


@dataclass  # not frozen: Lightning converts a copy field by field
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
        lanes_R, starts_R, rows_R: int64; each row's lane and the state (start, row) of that lane after it.
        records: of each row, as in `Row`.
        skipped: of all rows, as in `Row`.

    Examples:
        >>> batch = next(run.batches())
        >>> batch.tokens_RT.shape == batch.positions_RT.shape, bool((batch.num_tokens > 0).item())
        (True, True)
    """

    tokens_RT: torch.Tensor
    targets_RT: torch.Tensor
    segments_RT: torch.Tensor
    positions_RT: torch.Tensor
    tasks_RT: torch.Tensor
    step_targets: int
    first_of_step: bool
    lanes_R: torch.Tensor
    starts_R: torch.Tensor
    rows_R: torch.Tensor
    records: tuple[tuple[tuple[int, int, str | int], ...], ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> torch.Tensor:
        """How many tokens are read, without padding; a tensor, so that nothing waits for the device."""
        return (self.segments_RT > 0).sum()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RowBatch:
        """Return the batch with its tensors on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def pack(lengths: Sequence[int] | NDArray[np.int64], seq_len: int) -> list[list[int]]:
    """Distribute examples over rows by best-fit decreasing.

    The longest example goes first, each into the row it leaves the least room in. Needs at most 11/9 of the fewest
    possible rows plus one (Johnson 1973); far fewer in practice, because short examples fill the gaps.

    Args:
        lengths: tokens of each example; empty examples are left out.
        seq_len: positions of a row.

    Returns:
        For each row the indices of its examples.

    Raises:
        DataError: an example is longer than a row.
    """
    lengths = np.asarray(lengths, np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    if len(longest_first) and (longest := int(lengths[longest_first[0]])) > seq_len:
        raise DataError(
            f"an example of {longest} tokens does not fit into a row of {seq_len}",
            rule="a row holds its examples whole",
            remedy=f"set stream.seq_len={longest} or more, or a smaller data.max_history",
        )
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free positions, row), ascending
    for length, same in groupby(longest_first.tolist(), lengths.tolist().__getitem__):
        left = list(same)
        while left and length:
            tightest = bisect_left(rooms, (length, -1))
            if tightest == len(rooms):
                room, row = seq_len, len(rows)
                rows.append([])
            else:
                room, row = rooms.pop(tightest)
            # The tightest row for a length stays the tightest for that length while it has room.
            rows[row] += left[: room // length]
            insort(rooms, (room - length * min(len(left), room // length), row))
            del left[: room // length]
    return rows


def pack_window(lengths: NDArray[np.int64], seq_len: int) -> tuple[int, list[list[int]]]:
    """Distribute the examples of a window over rows, giving back the last of them where that fills the rows better.

    All are kept as long as at most `_MOST_PADDING` of the rows stays empty, because what is given back is encoded
    again. Otherwise one row less is filled with as many examples, in their order, as fit, unless that is no better.

    Args:
        lengths: tokens of each example, in the order of its lane.
        seq_len: positions of a row.

    Returns:
        How many of the examples are kept, and `pack` of those; at least one is kept.

    Raises:
        DataError: an example is longer than a row.
    """
    rows = pack(lengths, seq_len)
    used = np.cumsum(lengths)
    if len(rows) < 2 or used[-1] >= (1 - _MOST_PADDING) * len(rows) * seq_len:
        return len(lengths), rows
    room = (len(rows) - 1) * seq_len
    # Rows cannot always be filled to the last position: lower the number of tokens until they fit one row less.
    for share in (1.0, 0.99, 0.98, 0.97, 0.96):
        num_taken = int(np.searchsorted(used, share * room, side="right"))
        fewer = pack(lengths[:num_taken], seq_len)
        # An example that does not fit may fill nearly a row: giving it back would then leave the rows emptier.
        if fewer and used[num_taken - 1] * len(rows) > used[-1] * len(fewer):
            return num_taken, fewer
    return len(lengths), rows


def fill_rows(examples: Examples, rows: Sequence[Sequence[int]], seq_len: int) -> list[NDArray[Any]]:
    """Lay examples side by side in rows, padded to `seq_len`.

    Args:
        examples: what the rows are made of.
        rows: of each row the indices of its examples.
        seq_len: T.

    Returns:
        tokens, targets, segments, positions and tasks as in `Row`, each [R, T].
    """
    chosen = np.fromiter(chain.from_iterable(rows), np.int64)
    lengths = examples.lengths[chosen]
    counts = np.array([len(row) for row in rows])
    first = np.cumsum(counts) - counts
    before = np.cumsum(lengths) - lengths
    used = np.add.reduceat(lengths, first)
    place = np.arange(seq_len)
    filled_RT = place < used[:, None]
    gather = spans(examples.starts[chosen], lengths)

    def laid_out(values: NDArray[Any], dtype: type[np.generic] = np.int32) -> NDArray[Any]:
        laid_RT = np.zeros(filled_RT.shape, dtype)
        laid_RT[filled_RT] = values
        return laid_RT

    # Padding is one more isolated sequence, so that no attention row is ever empty.
    positions_RT = (place - used[:, None]).astype(np.int32)
    positions_RT[filled_RT] = np.arange(len(gather)) - np.repeat(before, lengths)
    number = np.arange(1, len(chosen) + 1) - np.repeat(first, counts)
    return [
        laid_out(examples.tokens[gather]),
        laid_out(examples.targets[gather], np.bool_),
        laid_out(np.repeat(number, lengths)),
        positions_RT,
        laid_out(np.repeat(examples.tasks[chosen], lengths)),
    ]


def fill_row(examples: Sequence[TokenizedExample], seq_len: int, *, lane: int, start: int, row: int) -> Row:
    """Lay examples side by side in one row, padded to `seq_len`."""
    tokens, targets, segments, positions, tasks = (
        values_RT[0] for values_RT in fill_rows(Examples.of(examples), [range(len(examples))], seq_len)
    )
    return Row(tokens, targets, segments, positions, tasks, lane, start, row)


def stack_rows(rows: Sequence[Row], *, step_targets: int, first_of_step: bool) -> RowBatch:
    """Collate rows into a micro-batch."""

    def stacked(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts, dtype=dtype).reshape(len(rows), -1))

    lanes_R, starts_R, rows_R = torch.from_numpy(np.array([(row.lane, row.start, row.row) for row in rows]).T.copy())
    return RowBatch(
        tokens_RT=stacked([row.tokens for row in rows], np.int64),
        targets_RT=stacked([row.targets for row in rows], np.bool_),
        segments_RT=stacked([row.segments for row in rows], np.int32),
        positions_RT=stacked([row.positions for row in rows], np.int64),
        tasks_RT=stacked([row.tasks for row in rows], np.int64),
        step_targets=step_targets,
        first_of_step=first_of_step,
        lanes_R=lanes_R,
        starts_R=starts_R,
        rows_R=rows_R,
        records=tuple(row.records for row in rows),
        skipped=tuple(chain.from_iterable(row.skipped for row in rows)),
    )
