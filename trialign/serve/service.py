"""Answer requests: check one against the catalogue, have it ranked, name what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from trialign.config.serve import ServeConfig
from trialign.errors import DataError
from trialign.serve.batcher import Ask, Batcher, Found
from trialign.serve.catalogue import Catalogue
from trialign.serve.metrics import Metrics
from trialign.serve.refusal import RefusedError
from trialign.serve.schema import Recommendation, RecommendedItem, RecommendRequest
from trialign.serve.served import Served
from trialign.serve.stock import Stock
from trialign.serve.versions import Versions
from trialign.types import Items

Result = TypeVar("Result")

_HALVES = re.compile("[\ud800-\udfff]")


class Service:
    """What the app answers with: the versions that can answer, the queue of requests, the limits and the counters.

    Args:
        versions: what answers now, and what answered before.
        settings: the limits.
        token: what a request must send; None: nothing.

    Raises:
        ConfigError: there is no folder `serve.stock`.
    """

    def __init__(self, versions: Versions, settings: ServeConfig, token: str | None = None) -> None:
        self.versions, self.settings, self.token = versions, settings, token
        self.stock = Stock(None if settings.stock is None else Path(settings.stock).expanduser())
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = Batcher(settings.max_batch, settings.max_queue, self.metrics.batch.observe)
        self.draining = False
        """Whether the service was asked to end."""
        self.connections: Callable[[], int] = lambda: 0
        """Returns the number of open connections; set by the server."""

    @property
    def served(self) -> Served:
        """What answers now; a request takes it once, since a reload may come in between."""
        return self.versions.current

    def reload(self) -> bool:
        """As `Versions.reload`, counted."""
        return self._counted(self.versions.reload, "reloaded")

    def rollback(self) -> None:
        """As `Versions.rollback`, counted."""
        self._counted(self.versions.rollback, "rolled back")

    def _counted(self, change: Callable[[], Result], outcome: str) -> Result:
        try:
            result = change()
        except RefusedError:
            self.metrics.reloads.labels("refused").inc()
            raise
        self.metrics.reloads.labels(outcome).inc()
        return result

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Return the body of the answer to a request.

        Raises:
            RefusedError: a limit is exceeded, or something is not known.
        """
        ask, unknown = await self.ask(request)
        return _answer(ask, unknown, await self.batcher.rank(ask))

    async def ask(self, request: RecommendRequest) -> tuple[Ask, list[str]]:
        """Return a request by the indices of what answers now, and its unknown keys; errors as `recommend`."""
        served = self.served
        self._check_k(request.k)
        history, seen, unknown = await self._history(request, served)
        stock = await self._stock(request, served, unknown)
        self._check_unknown(unknown)
        self._check_empty(history)
        exclude = seen if request.exclude_seen else seen[:0]
        return Ask(served, history, exclude, request.k, stock), list(dict.fromkeys(unknown))

    def _check_k(self, k: int) -> None:
        if k > self.settings.num_beams:
            raise RefusedError(
                422,
                f"k={k}",
                rule=f"at most {self.settings.num_beams} items are recommended (serve.num_beams)",
                remedy=f"send k={self.settings.num_beams} or less, or start the service with more beams",
            )

    async def _history(self, request: RecommendRequest, served: Served) -> tuple[Items, Items, list[str]]:
        """Return the history, all that was chosen before, and unknown keys."""
        if (request.user is None) == (request.items is None):
            raise RefusedError(
                422,
                "neither items nor user" if request.items is None else "items and user",
                rule="a request names either a list of items or a user of the logs",
                remedy='send {"items": [KEY, KEY]} or {"user": KEY}',
            )
        if request.user is not None:
            return await _history_of_user(request.user, served)
        keys = request.items or []
        self._check_length(len(keys))
        history, unknown = _indices(keys, served.catalogue)
        return history, history, unknown

    async def _stock(self, request: RecommendRequest, served: Served, unknown: list[str]) -> NDArray[np.bool_] | None:
        """Return bool [N], what is allowed minus what is blocked; keys that the catalogue lacks join `unknown`."""
        if request.allowed is None and request.blocked is None:
            return None
        stock_N = np.full(len(served.catalogue.keys), request.allowed is None)
        for listed, value in ((request.allowed, True), (request.blocked, False)):
            if isinstance(listed, str):
                stock_N[await run_in_threadpool(self.stock.items, listed, served.catalogue)] = value
            elif listed is not None:
                items, lacking = _indices(listed, served.catalogue)
                stock_N[items] = value
                unknown += lacking
        return stock_N

    def _check_unknown(self, unknown: list[str]) -> None:
        if any(map(_HALVES.search, unknown)):  # JSON can name them, and no answer can repeat them
            raise RefusedError(
                422,
                "items with halves of characters in their key",
                rule="a key is text that UTF-8 can hold",
                remedy="look keys up by GET /items?search=WORDS",
            )
        if unknown and self.settings.unknown_items == "refuse":
            raise RefusedError(
                422,
                f"unknown items {', '.join(unknown[:5])}",
                rule="items are named by their keys in the catalogue (serve.unknown_items=refuse)",
                remedy="look keys up by GET /items?search=WORDS, or leave the item out",
            )

    def _check_empty(self, history: Items) -> None:
        if not len(history) and self.settings.empty_history == "refuse":
            raise RefusedError(
                422,
                "a history without known items",
                rule="a history holds an item of the catalogue (serve.empty_history=refuse)",
                remedy="send items that the catalogue has; GET /items lists some",
            )

    def _check_length(self, number: int) -> None:
        if number > self.settings.max_items:
            raise RefusedError(
                422,
                f"{number} items",
                rule=f"a history has at most {self.settings.max_items} items (serve.max_items)",
                remedy="send the newest ones: the model reads only the last of them",
            )


def _indices(keys: Sequence[str], catalogue: Catalogue) -> tuple[Items, list[str]]:
    """Return the indices of those keys that the catalogue has, and the others."""
    index = catalogue.index
    return np.array([index[key] for key in keys if key in index], np.int32), [key for key in keys if key not in index]


async def _history_of_user(key: str, served: Served) -> tuple[Items, Items, list[str]]:
    if served.user is None:
        raise RefusedError(
            422,
            f"user '{key}'",
            rule="an exported bundle holds no users",
            remedy='send the history, {"items": [KEY, KEY]}, or serve the run itself: trialign serve run=DIR',
        )
    try:
        user = await run_in_threadpool(served.user, key)
    except DataError as error:
        raise RefusedError(
            422,
            error.value,
            rule="users are named as in the interaction log",
            remedy='check the key, or send {"items": [KEY]}',
        ) from error
    return user.history, user.seen, []


def _answer(ask: Ask, unknown: list[str], found: Found) -> Recommendation:
    catalogue = ask.served.catalogue
    fewer = None
    if len(found.items) < ask.k:
        fewer = f"{len(found.items)} of {ask.k} items: no other item of the catalogue may be recommended here"
    return Recommendation(
        items=[
            RecommendedItem(**dict(catalogue.item(item)), rank=rank, score=score)
            for rank, (item, score) in enumerate(zip(found.items, found.scores, strict=True), start=1)
        ],
        history=[catalogue.keys[item] for item in ask.history.tolist()],
        unknown=unknown,
        bundle=ask.served.digest,
        fewer=fewer,
    )
