"""A service over a catalogue of twelve items whose scores are made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from trialign.config.serve import ServeConfig
from trialign.data.dataset import User
from trialign.errors import DataError
from trialign.serve.app import build_app
from trialign.serve.served import Catalogue, Served
from trialign.serve.service import Service
from trialign.types import NO_ITEM, Items

NUM_ITEMS = 12


def rank_next(
    histories: list[Items], k: int, *, exclude: Sequence[Items] | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank the item after the last one first, then the one after it, and so on around."""
    items = np.full((len(histories), k), NO_ITEM, np.int32)
    scores = np.full((len(histories), k), -np.inf, np.float32)
    for row, history in enumerate(histories):
        last = int(history[-1]) if len(history) else NUM_ITEMS - 1
        left = set() if exclude is None else set(exclude[row].tolist())
        order = [item for step in range(1, NUM_ITEMS + 1) if (item := (last + step) % NUM_ITEMS) not in left][:k]
        items[row, : len(order)] = order
        scores[row, : len(order)] = -np.arange(1, len(order) + 1)
    return items, scores


def user_named(key: str) -> User:
    if key != "u0":
        raise DataError(f"no user '{key}' in the logs", rule="-", remedy="-")
    return User(np.array([3, 4], np.int32), np.array([1, 2]), np.array([7], np.int32))


def make_served(digest: str = "first", **changes: Any) -> Served:
    titles = [f"Thing {item} of {'Red' if item % 2 else 'blue'} wool" for item in range(NUM_ITEMS)]
    codes_NL = np.stack([np.arange(NUM_ITEMS) // 4, np.arange(NUM_ITEMS) % 4], axis=1)
    catalogue = Catalogue([f"k{item}" for item in range(NUM_ITEMS)], pa.array(titles), codes_NL)
    return Served(**{"catalogue": catalogue, "rank": rank_next, "digest": digest, "user": user_named} | changes)


def client_of(served: Served, **settings: Any) -> Iterator[TestClient]:
    service = Service(served, ServeConfig(**{"num_beams": 8} | settings))
    with TestClient(build_app(service), raise_server_exceptions=False) as client:
        yield client
    service.batcher.close()


@pytest.fixture
def client() -> Iterator[TestClient]:
    yield from client_of(make_served())
