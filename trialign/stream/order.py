"""The order of examples, as arithmetic: which record is at which position of an epoch, and which lane reads it.

Nothing here is stored or shuffled in memory. A keyed permutation is computed per index, so any worker can name the
record at any position of any epoch at once, which is what makes resuming and changing the number of ranks exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trialign.errors import ConfigError
from trialign.runtime.seeding import derive

Indices = NDArray[np.int64]

Draws = NDArray[np.float64]
"""Numbers in 0..1, 1 excluded."""

_NUM_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_SHARE_BITS = 24
_TABLE_SHARE = 8
_TABLED_BITS = 8
# Of the finalizer of splitmix64.
_SHIFTS = np.array([30, 27, 31], dtype=np.uint64)
_FACTORS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)


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
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        counters = np.arange(1, _NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        self._round_keys = _mix(counters + np.uint64(key))
        # A round sees only half of the bits: for a small network all its outputs are tabulated once.
        self._rounds = self._scrambled(np.arange(1 << self._half)) if self._half <= _TABLED_BITS else None

    def __call__(self, indices: Indices) -> Indices:
        """Return where each index goes."""
        return self._walk(indices, range(_NUM_ROUNDS), forward=True)

    def inverse(self, indices: Indices) -> Indices:
        """Return where each index comes from."""
        return self._walk(indices, range(_NUM_ROUNDS)[::-1], forward=False)

    def _walk(self, indices: Indices, rounds: range, *, forward: bool) -> Indices:
        # From an index outside 0..size-1, cycle walking might never end.
        assert ((indices >= 0) & (indices < self._size)).all(), self._size
        domain = 1 << 2 * self._half
        values = indices
        if domain <= _TABLE_SHARE * len(indices):
            # Sending the whole domain through once is cheaper than sending most of it through many times.
            table = self._network(np.arange(domain), rounds, forward)
            values = table[values]
            while (outside := values >= self._size).any():
                values[outside] = table[values[outside]]
            return values
        values = self._network(values, rounds, forward)
        while (outside := values >= self._size).any():
            values[outside] = self._network(values[outside], rounds, forward)
        return values

    def _network(self, indices: Indices, rounds: range, forward: bool) -> Indices:
        left, right = indices >> self._half, indices & (1 << self._half) - 1
        if not forward:
            left, right = right, left
        for number in rounds:
            scrambled = self._scrambled(right, number) if self._rounds is None else self._rounds[number].take(right)
            scrambled ^= left
            left, right = right, scrambled
        if not forward:
            left, right = right, left
        return (left << self._half) | right

    def _scrambled(self, halves: Indices, rounds: int | slice = slice(None)) -> Indices:
        """Return the output of one round function, or of each of several, for half of the bits."""
        keys = self._round_keys[rounds, None]
        return (_mix(halves.astype(np.uint64) ^ keys) & np.uint64((1 << self._half) - 1)).astype(np.int64)


@dataclass(frozen=True)
class Run:
    """Consecutive positions of an epoch whose records lie in one block.

    Attributes:
        epoch: the epoch.
        start: the first of the positions.
        block: the block.
        records: the record inside the block at each of the positions.
    """

    epoch: int
    start: int
    block: int
    records: Indices

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + len(self.records)


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

    def run(self, epoch: int, start: int, stop: int) -> Run:
        """Return the positions from `start` on that lie in one block; none from `stop` on.

        Args:
            epoch: 0, 1, ...
            start: in 0..N-1.
            stop: in start+1..N.
        """
        size = self.records_per_block
        num_blocks = -(-self.num_records // size)
        missing = num_blocks * size - self.num_records
        blocks_in_order, short_slot = _order_of_blocks(self, epoch)
        # Positions after the short block are shifted by what it lacks.
        after = start >= (short_slot + 1) * size - missing
        slot, offset = divmod(start + missing * after, size)
        block = int(blocks_in_order(np.array([slot]))[0])
        num_inside = size - missing if block == num_blocks - 1 else size
        offsets = np.arange(offset, min(num_inside, offset + stop - start))
        key = derive(self.seed, "records", self.name, epoch, block)
        return Run(epoch, start, block, Permutation(num_inside, key)(offsets))

    def draws(self, epoch: int, block: int, records: Indices) -> Draws:
        """Return a random number for each of some records of a block, for the random choices of its example.

        It depends on the record and the epoch alone, not on who reads it or when.
        """
        key = np.uint64(derive(self.seed, "draws", self.name, epoch, block))
        mixed = _mix(key + (records.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(maxsize=64)
def _order_of_blocks(order: SourceOrder, epoch: int) -> tuple[Permutation, int]:
    """Return an epoch's order of the blocks, and the place of the short one in it."""
    num_blocks = -(-order.num_records // order.records_per_block)
    blocks_in_order = Permutation(num_blocks, derive(order.seed, "blocks", order.name, epoch))
    return blocks_in_order, int(blocks_in_order.inverse(np.array([num_blocks - 1]))[0])


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


def accumulation(num_lanes: int, world_size: int, micro_batch_size: int) -> int:
    """Return the micro-batches per optimizer step, A = V / (W x micro_batch_size).

    Raises:
        ConfigError: the division leaves a rest; the remedy names the nearest values that leave none.
    """
    product = world_size * micro_batch_size
    if num_lanes % product == 0:
        return num_lanes // product
    nearest = sorted({max(1, num_lanes // product) * product, -(-num_lanes // product) * product})
    remedy = f"set stream.global_batch_size={' or '.join(map(str, nearest))}"
    if num_lanes % world_size == 0:
        fitting = [rows for rows in range(1, num_lanes // world_size + 1) if num_lanes // world_size % rows == 0]
        closest = sorted(sorted(fitting, key=lambda rows: abs(math.log(rows / micro_batch_size)))[:2])
        remedy += f", or runtime.micro_batch_size={' or '.join(map(str, closest))}"
    else:
        fitting = [ranks for ranks in range(1, num_lanes + 1) if num_lanes % (ranks * micro_batch_size) == 0]
        if fitting:
            remedy += f", or train on {min(fitting, key=lambda ranks: abs(ranks - world_size))} ranks"
    raise ConfigError(
        f"stream.global_batch_size={num_lanes} is not divisible by ranks x runtime.micro_batch_size = "
        f"{world_size} x {micro_batch_size}",
        rule="every rank takes whole micro-batches of every global batch",
        remedy=remedy,
    )


def fitting_workers(workers: int, lanes_per_rank: int) -> int:
    """Return the largest number of workers, at most `workers`, that share a rank's lanes evenly; 0 stays 0."""
    if workers == 0:
        return 0
    return max(count for count in range(1, min(workers, lanes_per_rank) + 1) if lanes_per_rank % count == 0)


def fitting_lanes(lanes: int, ranks: int, micro_batch_size: int, num_examples: int) -> tuple[int, int]:
    """Return the lanes and the micro-batch size, lowered so that each lane owns at least one example.

    Args:
        lanes: V as asked for; kept where there are as many examples.
        ranks: W; divides what is returned.
        micro_batch_size: as asked for; lowered to what shares a rank's lanes evenly.
        num_examples: of the task that has the fewest, 1 at least.

    Raises:
        ConfigError: fewer examples than ranks.
    """
    if num_examples >= lanes:
        return lanes, micro_batch_size
    if num_examples < ranks:
        raise ConfigError(
            f"{ranks} ranks for {num_examples} examples",
            rule="every rank serves lanes of its own, and every lane owns at least one example of every task",
            remedy="set runtime.nodes=1 runtime.devices=1 runtime.strategy=single",
        )
    lanes = num_examples // ranks * ranks
    return lanes, fitting_workers(micro_batch_size, lanes // ranks)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits (the finalizer of splitmix64, Steele et al. 2014)."""
    values = values ^ (values >> _SHIFTS[0])
    values *= _FACTORS[0]
    values ^= values >> _SHIFTS[1]
    values *= _FACTORS[1]
    values ^= values >> _SHIFTS[2]
    return values


def number_of_key(*parts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for every key; key i consists of the elements i of all arrays."""
    key = np.zeros(len(parts[0]), np.uint64)
    for part in parts:
        key = _mix((key ^ part.astype(np.uint64)) + np.uint64(_GOLDEN))
    return (key >> np.uint64(11)).astype(np.float64) * 2.0**-53  # 53 bits are what a float holds exactly
