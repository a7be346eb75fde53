from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialign.config.evaluate import BaselinesConfig, ItemKNNConfig
from trialign.errors import ConfigError, DataError
from trialign.evaluate.baselines import BASELINES, Baseline, check_names, counts, fit_baseline, load_baseline
from trialign.types import NO_ITEM, Items, Ranker

NUM_ITEMS = 7
items = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=14)
lists = st.lists(items, max_size=8)


COUNTING = [name for name in BASELINES if name != "sasrec"]


def fit(name: str, histories: list[Items], num_items: int, **options: Any) -> Baseline:
    settings = BaselinesConfig(names=[name], item_knn=ItemKNNConfig(**options))
    return fit_baseline(name, histories, ["an item"] * num_items, settings)


def arrays(found: list[list[int]]) -> list[Items]:
    return [np.array(history, np.int32) for history in found]


# Three users over items 0..5; nobody has item 5. Popularity: 0 -> 3, 1 -> 3, 2 -> 2, 3 -> 1, 4 -> 1, 5 -> 0.
USERS = arrays([[0, 1, 2], [3, 0, 1], [1, 0, 2, 4]])


def rank(
    name: str, history: list[int], k: int = 6, *, exclude: list[int] | None = None, **options: Any
) -> tuple[list[int], list[float]]:
    filtered = None if exclude is None else arrays([exclude])
    found, scores = fit(name, USERS, 6, **options).rank(arrays([history]), k, exclude=filtered)
    return found[0].tolist(), scores[0].tolist()


def test_popularity_by_hand() -> None:
    # 0 and 1 tie at 3, 3 and 4 at 1: the lower index first.
    assert rank("popularity", [2]) == ([0, 1, 2, 3, 4, 5], [3, 3, 2, 1, 1, 0])
    assert rank("popularity", [0], exclude=[0, 3, 0])[0] == [1, 2, 4, 5, NO_ITEM, NO_ITEM]


def test_item_to_item_by_hand() -> None:
    # After 0: 1 twice, 2 once; then the rest by popularity. Only the last item of the history counts.
    assert rank("item_to_item", [2, 0]) == ([1, 2, 0, 3, 4, 5], [2, 1, 0, 0, 0, 0])
    # After 1: 2 and 0 once each: the tie goes to the more popular 0. Forward only: 3 came before 0, never after.
    assert rank("item_to_item", [1])[0] == [0, 2, 1, 3, 4, 5]
    # Nothing ever followed 4; nobody has 5; the empty history has no last item: popularity.
    for history in ([4], [5], []):
        assert rank("item_to_item", history) == ([0, 1, 2, 3, 4, 5], [0.0] * 6)


def test_item_knn_by_hand() -> None:
    # History [4, 3]: 3 has age 0; 4 has age 1, weight 0.7.
    # Pairs of 3: 0 at distance 1, 1 at 2. Pairs of 4: 2 at 1, 0 at 2, 1 at 3.
    expected = {
        0: (1 + 0.7 / 2) / 3**0.5,
        1: (1 / 2 + 0.7 / 3) / 3**0.5,
        2: 0.7 / 2**0.5,
        3: 0.0,
        4: 0.0,
        5: 0.0,
    }
    found, scores = rank("item_knn", [4, 3])
    assert found == [0, 2, 1, 3, 4, 5]
    assert scores == pytest.approx([expected[item] for item in found])
    # The window bounds both the pairs and the history that is read.
    found, scores = rank("item_knn", [4, 3], window=1)
    assert (found[0], scores[:2]) == (0, pytest.approx([1 / 3**0.5, 0]))
    # Undamped, without decay.
    found, scores = rank("item_knn", [4, 3], decay=1.0, damping=0.0)
    assert (found[:3], scores[:3]) == ([0, 2, 1], pytest.approx([1.5, 1.0, 0.5 + 1 / 3]))


def plain_item_knn(
    train: list[list[int]], history: list[int], window: int, decay: float, damping: float
) -> list[float]:
    """The class's formula as a reader would write it: every two events of a user, every recent item."""
    nearness: dict[tuple[int, int], float] = defaultdict(float)
    popularity = [sum(user.count(item) for user in train) for item in range(NUM_ITEMS)]
    for user in train:
        for here, item in enumerate(user):
            for there, other in enumerate(user):
                if here != there and abs(here - there) <= window:
                    nearness[item, other] += 1 / abs(here - there)
    recent = history[-window:]
    return [
        sum(decay**age * nearness[item, other] for age, item in enumerate(reversed(recent)))
        / max(popularity[other], 1) ** damping
        for other in range(NUM_ITEMS)
    ]


@settings(max_examples=60, deadline=None)
@given(lists, st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6), st.integers(1, 4), st.sampled_from([0.7, 1.0]))
def test_item_knn_equals_the_plain_double_loop(
    train: list[list[int]], history: list[int], window: int, decay: float
) -> None:
    ranker = fit("item_knn", arrays(train), NUM_ITEMS, window=window, decay=decay)
    assert ranker.score(arrays([history]))[0] == pytest.approx(plain_item_knn(train, history, window, decay, 0.5))


@pytest.mark.parametrize("name", COUNTING)
@settings(max_examples=40, deadline=None)
@given(
    train=lists,
    users=st.lists(st.tuples(items, items), max_size=8),
    k=st.integers(1, NUM_ITEMS + 3),
    filters=st.booleans(),
)
def test_every_baseline_keeps_the_contract_of_a_ranker(
    name: str, train: list[list[int]], users: list[tuple[list[int], list[int]]], k: int, filters: bool
) -> None:
    ranker = fit(name, arrays(train), NUM_ITEMS)
    assert isinstance(ranker, Ranker)
    histories, excluded = [history for history, _ in users], [found for _, found in users]
    items, scores = ranker.rank(arrays(histories), k, exclude=arrays(excluded) if filters else None)
    assert items.shape == scores.shape == (len(histories), k)
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    popularity = np.bincount(np.concatenate([*arrays(train), np.empty(0, np.int32)]), minlength=NUM_ITEMS)
    exact = ranker.score(arrays(histories)).astype(np.float32) if histories else []
    for row in range(len(users)):
        legal = [item for item in range(NUM_ITEMS) if not filters or item not in excluded[row]]
        # The whole order follows from the scores and the stated rule for ties.
        order = sorted(legal, key=lambda item: (-exact[row][item], -popularity[item], item))[:k]
        fill = k - len(order)
        assert items[row].tolist() == order + [NO_ITEM] * fill
        assert scores[row].tolist() == [exact[row][item] for item in order] + [-np.inf] * fill


@pytest.mark.parametrize("name", COUNTING)
def test_chunks_of_users_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    train = [generator.integers(0, 30, 12).astype(np.int32) for _ in range(40)]
    ranker = fit(name, train, 30)
    whole = ranker.rank(train, 9, exclude=train[::-1])
    monkeypatch.setattr(counts, "_CELLS", 7 * 30)
    pieces = ranker.rank(train, 9, exclude=train[::-1])
    assert all(np.array_equal(one, other) for one, other in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("name", COUNTING)
def test_saved_baseline_is_read_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"window": 2, "decay": 0.9, "damping": 0.25} if name == "item_knn" else {}
    fitted = fit(name, USERS, 6, **options)
    fitted.save(tmp_path / "one")
    read = load_baseline(name, tmp_path / "one")
    read.save(tmp_path / "two")
    for file in ("counts.safetensors", "baseline.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    histories = arrays([[0, 3], [], [5, 4]])
    there, back = (ranker.rank(histories, 6, exclude=None) for ranker in (fitted, read))
    assert there[0].tobytes() == back[0].tobytes()
    assert there[1].tobytes() == back[1].tobytes()


def test_folder_of_another_baseline_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read.*\n.*\n.*trialign baselines"):
        load_baseline("popularity", tmp_path)
    fit("popularity", USERS, 6).save(tmp_path)
    with pytest.raises(DataError, match="holds a 'popularity' over 6 items, not a whole 'item_to_item'"):
        load_baseline("item_to_item", tmp_path)
    record = json.loads((tmp_path / "baseline.json").read_text())
    (tmp_path / "baseline.json").write_text(json.dumps({**record, "num_items": 5}))
    with pytest.raises(DataError, match="over 5 items, not a whole 'popularity'"):
        load_baseline("popularity", tmp_path)
    (tmp_path / "counts.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read"):
        load_baseline("popularity", tmp_path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="no baseline 'item_kn'") as refused:
        check_names(["popularity", "item_kn"])
    assert "did you mean 'item_knn'? known: item_knn, item_to_item, popularity, sasrec" in str(refused.value)
