"""The order of examples, as arithmetic: which record stands at which position of an epoch, and who reads it.

Nothing here is stored or shuffled in memory. A keyed permutation is computed per index, so any worker can name the
record at any position of any epoch at once, which is what makes resuming and changing the number of ranks exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialign.errors import ConfigError
from trialign.runtime.seeding import derive

Indices = NDArray[np.int64]

_NUM_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_SHARE_BITS = 24


class Permutation:
    """A keyed bijection of 0..size-1, computed per index.

    A balanced Feistel network on the smallest even number of bits that can hold `size` (a bijection whatever its round
    function), and cycle walking: a value that falls outside is sent through again until it is inside (Black and Rogaway
    2002). The domain is at most four times `size`, so that takes less than four passes on average.

    Args:
        size: at least 1.
        key: 63 bits; another key, another permutation.
    """

    def __init__(self, size: int, key: int) -> None:
        assert size >= 1, size
        self._size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = (np.uint64(1) << self._half) - np.uint64(1)
        counters = np.arange(1, _NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        self._round_keys = _mix(counters + np.uint64(key))

    def __call__(self, indices: Indices) -> Indices:
        """Return where each index goes."""
        return self._walk(indices, self._round_keys, forward=True)

    def inverse(self, indices: Indices) -> Indices:
        """Return where each index comes from."""
        return self._walk(indices, self._round_keys[::-1], forward=False)

    def _walk(self, indices: Indices, keys: NDArray[np.uint64], *, forward: bool) -> Indices:
        # From outside the walk might never come in.
        assert ((indices >= 0) & (indices < self._size)).all(), self._size
        values = self._network(indices.astype(np.uint64), keys, forward)
        while (outside := values >= self._size).any():
            values[outside] = self._network(values[outside], keys, forward)
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64], keys: NDArray[np.uint64], forward: bool) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        if not forward:
            left, right = right, left
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        if not forward:
            left, right = right, left
        return (left << self._half) | right


@dataclass(frozen=True)
class SourceOrder:
    """The order of one source's records, epoch by epoch.

    Blocks come in permuted order, and so do the records inside each. Whoever walks positions in order therefore stays
    inside one block for long.

    Attributes:
        name: of the source; another name, another order.
        num_records: N, at least 1.
        records_per_block: R; every block has R records but the last, which may be shorter.
        seed: of the stream.
    """

    name: str
    num_records: int
    records_per_block: int
    seed: int

    def locate(self, epoch: int, positions: Indices) -> tuple[Indices, Indices]:
        """Return (block, record inside it) at each position of an epoch.

        Args:
            epoch: 0, 1, ...
            positions: int64, each in 0..N-1.
        """
        size = self.records_per_block
        num_blocks = -(-self.num_records // size)
        missing = num_blocks * size - self.num_records
        blocks_in_order = Permutation(num_blocks, derive(self.seed, "blocks", self.name, epoch))
        # Positions after the short block are shifted by what it lacks.
        short_slot = int(blocks_in_order.inverse(np.array([num_blocks - 1]))[0])
        after = positions >= (short_slot + 1) * size - missing
        shifted = positions + missing * after
        slots, offsets = shifted // size, shifted % size
        blocks = blocks_in_order(slots)
        records = np.empty_like(offsets)
        for block in np.unique(blocks):
            inside = blocks == block
            num_inside = size - missing if block == num_blocks - 1 else size
            key = derive(self.seed, "records", self.name, epoch, int(block))
            records[inside] = Permutation(num_inside, key)(offsets[inside])
        return blocks, records


class Interleaving:
    """Several endless sequences merged into one by weight, without a random draw.

    Element k of the merged sequence belongs to the first source whenever floor((k + 1) a) exceeds floor(k a), a being
    its share; what is left over is shared by the other sources in the same way. So after any k elements each source has
    had its share to within a few examples.

    Args:
        weights: one per source, positive; only their ratios matter. Shares are kept to 24 bits, so that the products
            stay exact in 64-bit integers for 2^39 examples of a lane.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._parts = [max(1, round(weight / sum(weights) * 2**_SHARE_BITS)) for weight in weights]

    def locate(self, k: Indices) -> tuple[Indices, Indices]:
        """Return (source, index in that source's own sequence) of the merged sequence's elements `k`."""
        sources = np.full_like(k, len(self._parts) - 1)
        indices = k.copy()
        left = np.arange(len(k))  # those whose source is not known yet
        for source, part in enumerate(self._parts[:-1]):
            total = sum(self._parts[source:])
            before = indices[left] * part // total
            mine = (indices[left] + 1) * part // total > before
            sources[left[mine]] = source
            indices[left] = np.where(mine, before, indices[left] - before)
            left = left[~mine]
        return sources, indices


def lane_range(lane: int, num_lanes: int, num_records: int) -> tuple[int, int]:
    """Return the positions [start, stop) of every epoch of a source that a lane owns; lanes are equal to one record."""
    return lane * num_records // num_lanes, (lane + 1) * num_records // num_lanes


def accumulation(num_lanes: int, world_size: int, micro_rows: int) -> int:
    """Return the micro-batches per optimizer step, A = V / (W x micro_rows).

    Raises:
        ConfigError: the division leaves a rest; the remedy names the nearest values that leave none.
    """
    product = world_size * micro_rows
    if num_lanes % product == 0:
        return num_lanes // product
    nearest = sorted({max(1, num_lanes // product) * product, -(-num_lanes // product) * product})
    remedy = f"set stream.lanes={' or '.join(map(str, nearest))}"
    if num_lanes % world_size == 0:
        fitting = [rows for rows in range(1, num_lanes // world_size + 1) if num_lanes // world_size % rows == 0]
        closest = sorted(sorted(fitting, key=lambda rows: abs(math.log(rows / micro_rows)))[:2])
        remedy += f", or runtime.micro_rows={' or '.join(map(str, closest))}"
    else:
        fitting = [ranks for ranks in range(1, num_lanes + 1) if num_lanes % (ranks * micro_rows) == 0]
        if fitting:
            remedy += f", or train on {min(fitting, key=lambda ranks: abs(ranks - world_size))} ranks"
    raise ConfigError(
        f"stream.lanes={num_lanes} is not divisible by ranks x runtime.micro_rows = {world_size} x {micro_rows}",
        rule="every rank takes whole micro-batches of every global batch",
        remedy=remedy,
    )


def fitting_workers(workers: int, lanes_per_rank: int) -> int:
    """Return the largest number of workers, at most `workers`, that share a rank's lanes evenly; 0 stays 0."""
    if workers == 0:
        return 0
    return max(count for count in range(1, min(workers, lanes_per_rank) + 1) if lanes_per_rank % count == 0)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
