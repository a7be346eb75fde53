from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialign.errors import ConfigError
from trialign.stream.order import (
    Indices,
    Interleaving,
    Permutation,
    Run,
    SourceOrder,
    accumulation,
    fitting_lanes,
    fitting_workers,
    lane_range,
)

KEYS = st.integers(0, 2**63 - 1)


def walk(order: SourceOrder, epoch: int) -> tuple[Indices, Indices]:
    """Return (block, record inside it) at every position of an epoch."""
    runs: list[Run] = []
    position = 0
    while position < order.num_records:
        runs.append(order.run(epoch, position, order.num_records))
        position = runs[-1].stop
    blocks = np.repeat([run.block for run in runs], [len(run.records) for run in runs])
    return blocks, np.concatenate([run.records for run in runs])


@given(st.integers(1, 3000), KEYS)
def test_a_permutation_is_a_bijection_and_inverse_undoes_it(size: int, key: int) -> None:
    indices = np.arange(size)
    permuted = Permutation(size, key)(indices)
    assert sorted(permuted.tolist()) == indices.tolist()
    assert np.array_equal(Permutation(size, key).inverse(permuted), indices)


def test_a_permutation_of_a_large_domain_is_computed_per_index() -> None:
    size = 10**12 + 7
    chosen = np.array([0, 1, size // 2, size - 1])
    permutation = Permutation(size, 5)
    assert ((permutation(chosen) >= 0) & (permutation(chosen) < size)).all()
    assert np.array_equal(permutation.inverse(permutation(chosen)), chosen)
    assert np.array_equal(permutation(chosen[2:3]), permutation(chosen)[2:3])


@pytest.mark.parametrize("size", [1, 2, 22, 1000, 65_536])
def test_rounds_from_a_table_are_the_rounds(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    indices = np.arange(size)
    tabled = Permutation(size, 11)
    monkeypatch.setattr("trialign.stream.order._TABLED_BITS", 0)
    computed = Permutation(size, 11)
    assert np.array_equal(tabled(indices), computed(indices))
    assert np.array_equal(tabled.inverse(indices[:1]), computed.inverse(indices[:1]))


@pytest.mark.parametrize("size", [3, 22, 50])
def test_over_keys_every_index_goes_everywhere_equally_often(size: int) -> None:
    num_keys = 100 * size
    first = np.array([Permutation(size, key)(np.array([0, size - 1])) for key in range(num_keys)])
    for places in first.T:
        expected = num_keys / size
        chi_square = ((np.bincount(places, minlength=size) - expected) ** 2 / expected).sum()
        # Mean size - 1, variance 2 (size - 1): five standard deviations.
        assert chi_square < size - 1 + 5 * np.sqrt(2 * (size - 1))


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 5))
def test_an_epoch_holds_every_record_once_block_after_block(num_records: int, size: int, epoch: int) -> None:
    blocks, records = walk(SourceOrder("train", num_records, size, seed=1), epoch)
    assert sorted((blocks * size + records).tolist()) == list(range(num_records))
    assert (np.diff(blocks) != 0).sum() == len(np.unique(blocks)) - 1


@given(st.integers(1, 500), st.integers(1, 40), st.data())
def test_a_position_means_the_same_alone_as_in_company(num_records: int, size: int, data: st.DataObject) -> None:
    order = SourceOrder("train", num_records, size, seed=1)
    position = data.draw(st.integers(0, num_records - 1))
    alone = order.run(2, position, position + 1)
    assert (alone.start, alone.stop) == (position, position + 1)
    assert (alone.block, alone.records[0]) == tuple(int(part[position]) for part in walk(order, 2))


def test_epochs_sources_and_seeds_have_orders_of_their_own() -> None:
    def order(name: str, seed: int, epoch: int) -> list[int]:
        blocks, records = walk(SourceOrder(name, 1000, 100, seed), epoch)
        return (blocks * 100 + records).tolist()

    orders = [order("a", 0, 0), order("b", 0, 0), order("a", 1, 0), order("a", 0, 1), list(range(1000))]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(np.equal(one, other)) < 0.02


def test_inside_a_block_every_epoch_source_seed_and_block_has_an_order_of_its_own() -> None:
    def inside(name: str, seed: int, epoch: int, block: int) -> list[int]:
        blocks, records = walk(SourceOrder(name, 1000, 100, seed), epoch)
        return records[blocks == block].tolist()

    orders = [inside("a", 0, 0, 0), inside("a", 0, 1, 0), inside("b", 0, 0, 0), inside("a", 1, 0, 0)]
    orders += [inside("a", 0, 0, 1), inside("a", 0, 2, 0), list(range(100))]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(np.equal(one, other)) < 0.1


@given(st.integers(1, 60), st.integers(0, 5000))
def test_lanes_part_an_epoch_and_differ_by_one_at_most(num_lanes: int, num_records: int) -> None:
    ranges = [lane_range(lane, num_lanes, num_records) for lane in range(num_lanes)]
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == num_records
    sizes = [stop - start for start, stop in ranges]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_interleaving_counts_each_source_without_a_gap_and_close_to_its_share(weights: list[float]) -> None:
    sources, indices = Interleaving(weights).locate(np.arange(2000))
    for source, weight in enumerate(weights):
        mine = sources == source
        assert indices[mine].tolist() == list(range(mine.sum()))
        due = np.arange(1, 2001) * weight / sum(weights)
        assert np.abs(np.cumsum(mine) - due).max() < len(weights) + 0.1


def test_interleaving_by_hand() -> None:
    # Shares 1/2, 1/4, 1/4: the first takes every second element, the others halve the rest.
    sources, indices = Interleaving([2, 1, 1]).locate(np.arange(8))
    assert sources.tolist() == [2, 0, 1, 0, 2, 0, 1, 0]
    assert indices.tolist() == [0, 0, 0, 1, 1, 2, 1, 3]


def test_interleaving_is_a_closed_form() -> None:
    merged = Interleaving([3, 1.7, 0.2])
    sources, indices = merged.locate(np.arange(10_000, 10_256))
    at_once = merged.locate(np.arange(10_256))
    assert np.array_equal(sources, at_once[0][10_000:])
    assert np.array_equal(indices, at_once[1][10_000:])


def test_accumulation() -> None:
    assert accumulation(32, 2, 4) == 4


@pytest.mark.parametrize(
    ("num_lanes", "world_size", "micro_batch_size", "remedy"),
    [
        (32, 2, 5, "stream.global_batch_size=30 or 40, or runtime.micro_batch_size=4 or 8"),
        (32, 3, 4, "stream.global_batch_size=24 or 36, or train on 2 ranks"),
        (4, 1, 8, "stream.global_batch_size=8, or runtime.micro_batch_size=2 or 4"),
        (7, 2, 2, "stream.global_batch_size=4 or 8"),
    ],
)
def test_lanes_that_do_not_divide_are_refused_with_values_that_do(
    num_lanes: int, world_size: int, micro_batch_size: int, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"set {remedy}") + "$"):
        accumulation(num_lanes, world_size, micro_batch_size)


def test_every_number_a_refusal_names_is_legal() -> None:
    refused = 0
    for num_lanes in range(1, 25):
        for world_size in range(1, 6):
            for micro_batch_size in range(1, 9):
                try:
                    accumulation(num_lanes, world_size, micro_batch_size)
                except ConfigError as error:
                    refused += 1
                    for part in re.split(", or ", error.remedy):
                        for number in map(int, re.findall(r"\d+", part)):
                            if "global_batch_size" in part:
                                assert number % (world_size * micro_batch_size) == 0
                            elif "micro_batch_size" in part:
                                assert num_lanes % (world_size * number) == 0
                            else:
                                assert num_lanes % (number * micro_batch_size) == 0
    assert refused > 100


@pytest.mark.parametrize(("workers", "lanes", "fitting"), [(0, 8, 0), (3, 8, 2), (4, 8, 4), (9, 8, 8), (4, 7, 1)])
def test_workers_are_lowered_to_what_shares_the_lanes(workers: int, lanes: int, fitting: int) -> None:
    assert fitting_workers(workers, lanes) == fitting


def test_lanes_are_lowered_to_what_few_examples_fill() -> None:
    """Every lane owns one, ranks share the lanes, micro-batches the rank's; enough examples change nothing."""
    assert fitting_lanes(8, 2, 4, 8) == (8, 4)
    assert fitting_lanes(8, 1, 8, 2) == (2, 2)
    assert fitting_lanes(8, 2, 4, 7) == (6, 3)
    for ranks, num_examples, micro_batch_size in itertools.product((1, 2, 3), range(3, 30), (1, 2, 4)):
        lanes, rows = fitting_lanes(12 * ranks, ranks, micro_batch_size, num_examples)
        assert lanes <= num_examples
        assert accumulation(lanes, ranks, rows) * rows * ranks == lanes
    with pytest.raises(ConfigError, match="4 ranks for 2 examples"):
        fitting_lanes(8, 4, 2, 2)


def test_chance_is_of_the_record_and_the_epoch_alone_and_fair() -> None:
    order = SourceOrder("titles", num_records=50_000, records_per_block=50_000, seed=3)
    records = np.arange(50_000)
    draws = order.draws(0, 0, records)
    assert ((draws >= 0) & (draws < 1)).all()
    assert np.array_equal(order.draws(0, 0, records[::-7]), draws[::-7])
    others = [order.draws(1, 0, records), order.draws(0, 1, records)]
    others.append(SourceOrder("captions", 50_000, 50_000, seed=3).draws(0, 0, records))
    for found in (draws, *others):
        expected = 50_000 / 20
        counts = np.bincount((found * 20).astype(int), minlength=20)
        # Chi-square of 19 degrees: mean 19, standard deviation 6.2.
        assert ((counts - expected) ** 2 / expected).sum() < 19 + 5 * 6.2
    for other in others:
        assert abs(np.corrcoef(draws, other)[0, 1]) < 5 / 50_000**0.5
