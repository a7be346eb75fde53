"""SASRec: what a place sees, what it learns, and the contract of a ranker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trialign.config.evaluate import SASRecConfig
from trialign.errors import DataError
from trialign.evaluate.baselines import load_baseline
from trialign.evaluate.baselines.sasrec import SASRec, _Batches, _loss
from trialign.runtime.seeding import numpy_generator
from trialign.types import NO_ITEM, Items, Ranker

NUM_ITEMS = 12
TEXTS = [f"{color} {thing}" for color in ("red", "green", "blue") for thing in ("cup", "lamp", "chair", "rug")]
SMALL: dict[str, Any] = {"dim": 16, "epochs": 2, "batch_items": 32, "max_history": 6}


def chain(start: int, length: int) -> Items:
    """A world in which item i is always followed by i + 5 modulo N."""
    return ((start + 5 * np.arange(length)) % NUM_ITEMS).astype(np.int32)


HISTORIES = [chain(start, 2 + start % 9) for start in range(48)]


def fit(**options: Any) -> SASRec:
    return SASRec.fit(HISTORIES, NUM_ITEMS, SASRecConfig(**(SMALL | options)), texts=TEXTS, seed=0)


def test_learns_a_world_without_chance() -> None:
    ranker = fit(epochs=40, learning_rate=5e-3, dropout=0.0)
    items, _ = ranker.rank([chain(start, 4) for start in range(NUM_ITEMS)], 1, exclude=None)
    assert items[:, 0].tolist() == [(start + 20) % NUM_ITEMS for start in range(NUM_ITEMS)]


@pytest.mark.parametrize("text_dim", [0, 8])
def test_keeps_the_contract_of_a_ranker_and_is_read_back(text_dim: int, tmp_path: Path) -> None:
    fitted = fit(text_dim=text_dim)
    assert isinstance(fitted, Ranker)
    histories = [*HISTORIES[:5], np.empty(0, np.int32), np.arange(NUM_ITEMS, dtype=np.int32)]
    excluded = histories[::-1]
    items, scores = fitted.rank(histories, 15, exclude=excluded)
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    for row, filtered in enumerate(excluded):
        legal = sorted(set(range(NUM_ITEMS)) - set(filtered.tolist()))
        assert sorted(items[row][items[row] != NO_ITEM].tolist()) == legal
        assert (np.diff(scores[row][: len(legal)]) <= 0).all()
        assert (scores[row][len(legal) :] == -np.inf).all()
    fitted.save(tmp_path)
    read = load_baseline("sasrec", tmp_path)
    there, back = (ranker.rank(histories, 15, exclude=histories) for ranker in (fitted, read))
    assert there[0].tobytes() == back[0].tobytes()
    assert there[1].tobytes() == back[1].tobytes()
    with pytest.raises(DataError, match="a fitted sasrec"):
        load_baseline("sasrec", tmp_path / "nowhere")


def test_no_place_sees_what_comes_after_it() -> None:
    model = fit()
    vectors_ND = model.item_vectors()
    one, other = torch.tensor([[3, 1, 4, 1]]), torch.tensor([[3, 1, 9, 2]])
    with torch.no_grad():
        before, after = model(one, vectors_ND), model(other, vectors_ND)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_of_a_long_history_the_last_items_are_read() -> None:
    ranker, long = fit(), chain(0, 10)
    whole, last, first = (ranker.rank([read], 5, exclude=None)[1].tolist() for read in (long, long[-6:], long[:6]))
    assert whole == last
    assert whole != first


def test_each_event_is_a_target_once_however_windows_are_cut() -> None:
    batches = _Batches(HISTORIES, 6, 32)
    for epoch in range(2):
        found = [targets for _, targets in batches.shuffled(np.random.default_rng(epoch))]
        learned = np.concatenate([targets[targets != NO_ITEM].numpy() for targets in found])
        assert np.array_equal(np.sort(learned), np.sort(np.concatenate(HISTORIES)))
        assert len(found) == len(batches)


def test_a_step_goes_by_the_gradient_of_its_own_batch() -> None:
    """Without a learning rate the weights stay, so that the last batch's gradient can be made again."""
    fitted = fit(learning_rate=0.0, dropout=0.0, epochs=1)
    found = [weights.grad.clone() for weights in fitted.parameters() if weights.grad is not None]
    *_, (items_BT, targets_BT) = _Batches(HISTORIES, 6, 32).shuffled(numpy_generator(0, "sasrec", 0))
    fitted.zero_grad()
    _loss(fitted, items_BT, targets_BT).backward()
    torch.nn.utils.clip_grad_norm_(fitted.parameters(), 1.0)
    again = [weights.grad for weights in fitted.parameters() if weights.grad is not None]
    for one, other in zip(found, again, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("repeats", [False, True])
def test_whether_users_choose_again_is_learned(repeats: bool) -> None:
    draws = np.random.default_rng(0)
    orders = [draws.permutation(NUM_ITEMS)[:6].astype(np.int32) for _ in range(64)]
    histories = [np.concatenate([order[:3], order[:3]]) if repeats else order for order in orders]
    settings = SASRecConfig(**(SMALL | {"epochs": 12}))
    ranker = SASRec.fit(histories, NUM_ITEMS, settings, texts=TEXTS, seed=0)
    asked = [order[:3] for order in orders]
    items, _ = ranker.rank(asked, 3, exclude=None)
    hits = np.mean([np.isin(found, own).mean() for found, own in zip(items, asked, strict=True)])
    assert hits > 0.9 if repeats else hits == 0
    without = replace(settings, repeats=False)
    plain, _ = SASRec.fit(histories, NUM_ITEMS, without, texts=TEXTS, seed=0).rank(asked, 3, exclude=None)
    assert 0.05 < np.mean([np.isin(found, own).mean() for found, own in zip(plain, asked, strict=True)]) < 0.9


def test_same_seed_same_weights() -> None:
    one, other, third = fit(), fit(), SASRec.fit(HISTORIES, NUM_ITEMS, SASRecConfig(**SMALL), texts=TEXTS, seed=1)
    assert torch.equal(one.ids.weight, other.ids.weight)
    assert not torch.equal(one.ids.weight, third.ids.weight)
