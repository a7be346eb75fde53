"""Rank requests together: a thread takes what waited while it ranked the last batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialign.serve.refusal import RefusedError
from trialign.serve.served import Served
from trialign.types import NO_ITEM, Items

log = logging.getLogger("trialign")


class Found(NamedTuple):
    """Recommended items and their scores, best first."""

    items: list[int]
    scores: list[float]


@dataclass
class Ask:
    """One request to rank, by the indices of `served`.

    Args:
        served: what ranks it.
        history: items, oldest first.
        exclude: items that are left out.
        k: items wanted.
        stock: bool [N], the items that may be recommended; None: all.
    """

    served: Served
    history: Items
    exclude: Items
    k: int
    stock: NDArray[np.bool_] | None = None
    answer: asyncio.Future[Found] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """A thread that ranks, and the queue before it.

    Args:
        most: requests that are ranked together at most.
        room: requests that may wait.
        ranked: called with the size of every batch.
    """

    def __init__(self, most: int, room: int, ranked: Callable[[int], None]) -> None:
        self._most, self._room, self._ranked = most, room, ranked
        self._waiting: deque[Ask] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ranker", daemon=True)
        self._thread.start()

    async def rank(self, ask: Ask) -> Found:
        """Return the answer to a request.

        Raises:
            RefusedError: too many requests wait, or the ranker failed on this one.
        """
        with self._changed:
            if self._closed or len(self._waiting) >= self._room:
                raise RefusedError(
                    503,
                    f"{len(self._waiting)} requests wait",
                    rule=f"at most {self._room} requests wait to be ranked (serve.max_queue)",
                    remedy="send it again after Retry-After seconds; add replicas if this lasts",
                    headers={"retry-after": "1"},
                )
            self._waiting.append(ask)
            self._changed.notify()
        return await ask.answer

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether requests are ranked."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Rank what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            self._answer(batch)

    def _take(self) -> list[Ask]:
        """Wait for requests, and return those that one `Served` ranks together; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[Ask] = []
            while self._waiting and len(batch) < self._most:
                if batch and self._waiting[0].served is not batch[0].served:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _answer(self, batch: list[Ask]) -> None:
        self._ranked(len(batch))
        try:
            found: list[Found | RefusedError] = list(_ranked(batch))
        except Exception:
            if len(batch) > 1:  # one of them may be at fault: the others get their answers
                for ask in batch:
                    self._answer([ask])
                return
            log.exception("the ranker failed on a request")
            found = [
                RefusedError(
                    503,
                    "the ranker failed on this request",
                    rule="a request is ranked, or the reason is in the log of the service",
                    remedy="see the log of the service; POST /rollback returns to the bundle before",
                )
            ]
        batch[0].answer.get_loop().call_soon_threadsafe(_deliver, batch, found)


def _ranked(batch: Sequence[Ask]) -> list[Found]:
    k = max(ask.k for ask in batch)
    items_BK, scores_BK = batch[0].served.rank(
        [ask.history for ask in batch], k, exclude=[ask.exclude for ask in batch], stock=_stock(batch)
    )
    found = []
    for ask, items, scores in zip(batch, items_BK.tolist(), scores_BK.tolist(), strict=True):
        wanted = sum(item != NO_ITEM for item in items[: ask.k])
        found.append(Found(items[:wanted], scores[:wanted]))
    return found


def _stock(batch: Sequence[Ask]) -> NDArray[np.bool_] | None:
    """Return which items each request allows; None if all allow all."""
    given = [ask.stock for ask in batch]
    if all(stock is None for stock in given):
        return None
    everything = np.ones(len(batch[0].served.catalogue.keys), dtype=bool)
    return np.stack([everything if stock is None else stock for stock in given])


def _deliver(batch: Sequence[Ask], found: Sequence[Found | RefusedError]) -> None:
    for ask, one in zip(batch, found, strict=True):
        if ask.answer.done():
            continue
        if isinstance(one, RefusedError):
            ask.answer.set_exception(one)
        else:
            ask.answer.set_result(one)
