"""The prefix index: every item is found by its codes, and only items are."""

from __future__ import annotations

import numpy as np
import pytest

from trialign.decode.index import PrefixIndex
from trialign.errors import DataError


def walk(index: PrefixIndex) -> dict[tuple[int, ...], int]:
    """Return codes -> item, by following every child from the root."""
    paths = {(): 0}
    for level in index.levels:
        paths = {
            (*codes, int(level.codes[child])): child
            for codes, node in paths.items()
            for child in range(int(level.starts[node]), int(level.starts[node + 1]))
        }
    return {codes: int(index.items[leaf]) for codes, leaf in paths.items()}


@pytest.mark.parametrize(
    ("num_items", "num_levels", "size"), [(1, 1, 2), (1, 3, 4), (9, 1, 9), (50, 2, 8), (200, 3, 7)]
)
def test_the_paths_from_the_root_are_the_semantic_ids(num_items: int, num_levels: int, size: int) -> None:
    draws = np.random.default_rng(num_items)
    tuples = draws.choice(size**num_levels, size=num_items, replace=False)
    codes_NL = np.stack(np.unravel_index(tuples, (size,) * num_levels), axis=1)
    assert walk(PrefixIndex.from_codes(codes_NL, size)) == {
        tuple(codes): item for item, codes in enumerate(codes_NL.tolist())
    }


def test_a_worked_index() -> None:
    index = PrefixIndex.from_codes(np.array([[2, 0], [0, 1], [2, 3], [0, 0]]), codebook_size=4)
    root, second = index.levels
    assert (root.starts.tolist(), root.codes.tolist(), root.width) == ([0, 2], [0, 2], 2)
    assert (second.starts.tolist(), second.codes.tolist(), second.width) == ([0, 2, 4], [0, 1, 0, 3], 2)
    assert second.windows.tolist() == [[0, 1], [1, 0], [0, 3], [3, 0]]
    assert index.items.tolist() == [3, 1, 0, 2]


def test_two_items_with_one_tuple_are_named() -> None:
    with pytest.raises(DataError, match=r"items 1 and 3 share the codes \[0, 1\]"):
        PrefixIndex.from_codes(np.array([[2, 0], [0, 1], [2, 3], [0, 1]]), codebook_size=4)


def test_codes_outside_the_codebook_are_refused() -> None:
    with pytest.raises(DataError, match="codes from 0 to 4"):
        PrefixIndex.from_codes(np.array([[4, 0]]), codebook_size=4)


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(DataError, match="at least one item"):
        PrefixIndex.from_codes(np.zeros((0, 3), dtype=np.int64), codebook_size=4)
