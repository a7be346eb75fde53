"""A service over a catalogue of twelve items whose scores are made by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from trialign.config.serve import ServeConfig
from trialign.data.dataset import User
from trialign.errors import DataError
from trialign.serve.app import build_app
from trialign.serve.catalogue import Catalogue
from trialign.serve.schema import RecommendRequest
from trialign.serve.served import Served
from trialign.serve.service import Service
from trialign.serve.versions import Versions
from trialign.types import NO_ITEM, Items

NUM_ITEMS = 12


def rank_next(
    histories: list[Items], k: int, *, exclude: Sequence[Items] | None, stock: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank the item after the last one first, then the one after it, and so on around."""
    items = np.full((len(histories), k), NO_ITEM, np.int32)
    scores = np.full((len(histories), k), -np.inf, np.float32)
    for row, history in enumerate(histories):
        last = int(history[-1]) if len(history) else NUM_ITEMS - 1
        left = set() if exclude is None else set(exclude[row].tolist())
        if stock is not None:
            left |= set(np.flatnonzero(~np.broadcast_to(stock, (len(histories), NUM_ITEMS))[row]).tolist())
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


class Shelf:
    """A source whose load takes what `then` names: something served, or an error."""

    def __init__(self, first: Served) -> None:
        self.then: Served | Exception = first
        self.bytes = 0

    def load(self) -> Served:
        if isinstance(self.then, Exception):
            raise self.then
        return self.then

    def size(self) -> int:
        return self.bytes


@pytest.fixture
def make_client() -> Iterator[Callable[..., TestClient]]:
    """Return a function that makes the client of a new service; the service is `client.app.state.service`."""
    services: list[Service] = []

    def make(served: Served | None = None, token: str | None = None, **settings: Any) -> TestClient:
        shelf = Shelf(served or make_served())
        versions = Versions(shelf, lambda: 1000)
        service = Service(versions, ServeConfig(**{"num_beams": 10} | settings), token)
        services.append(service)
        return TestClient(build_app(service), base_url="http://127.0.0.1")

    yield make
    for service in services:
        service.batcher.close()


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()


@pytest.fixture
def served() -> Callable[..., Served]:
    return make_served


@pytest.fixture
def together() -> Callable[..., list[list[str]]]:
    """Return a function that has the ranker rank requests in one batch, and returns the keys of each answer."""

    def ask(client: TestClient, requests: list[dict[str, Any]]) -> list[list[str]]:
        service = cast(Any, client.app).state.service
        started, go = threading.Event(), threading.Event()

        def held(*args: Any, **how: Any) -> Any:
            started.set()
            assert go.wait(30)
            return rank_next(*args, **how)

        async def send() -> list[Any]:
            service.versions.current = make_served(rank=held)
            first = asyncio.create_task(service.recommend(RecommendRequest(items=[], k=1)))
            await asyncio.to_thread(started.wait, 30)
            rest = [asyncio.create_task(service.recommend(RecommendRequest(**request))) for request in requests]
            while service.batcher.waiting < len(requests):
                await asyncio.sleep(0)
            go.set()
            await first
            return list(await asyncio.gather(*rest))

        answers = asyncio.run(send())
        assert service.metrics.batch._sum.get() == 1 + len(requests)
        assert sum(bucket.get() for bucket in service.metrics.batch._buckets) == 2, "not one batch"
        return [[item.item for item in answer.items] for answer in answers]

    return ask
