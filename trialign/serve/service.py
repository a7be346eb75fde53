"""Answer requests: check one against the catalogue, have it ranked, name what was found."""

from __future__ import annotations

import numpy as np
from fastapi.concurrency import run_in_threadpool

from trialign.config.serve import ServeConfig
from trialign.errors import DataError
from trialign.serve.batcher import Ask, Batcher, Found
from trialign.serve.refusal import RefusedError
from trialign.serve.schema import Recommendation, RecommendedItem, RecommendRequest
from trialign.serve.served import Served
from trialign.types import Items


class Service:
    """What the app answers with: a `Served`, the queue of requests, and the limits.

    Args:
        served: what ranks.
        settings: the limits.
    """

    def __init__(self, served: Served, settings: ServeConfig) -> None:
        self.served = served
        self.settings = settings
        self.batcher = Batcher(settings.max_batch, settings.max_queue)

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Return the body of the answer to a request.

        Raises:
            RefusedError: a limit is exceeded, or something is not known.
        """
        served = self.served  # one for the whole request: a reload may come in between
        self._check_k(request.k)
        history, seen, unknown = await self._history(request, served)
        exclude = seen if request.exclude_seen else seen[:0]
        found = await self.batcher.rank(Ask(served, history, exclude, request.k))
        return _answer(served, request, history, unknown, found)

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
        index = served.catalogue.index
        unknown = list(dict.fromkeys(key for key in keys if key not in index))
        if unknown and self.settings.unknown_items == "refuse":
            raise RefusedError(
                422,
                f"unknown items {', '.join(unknown[:5])}",
                rule="items are named by their keys in the catalogue (serve.unknown_items=refuse)",
                remedy="look keys up by GET /items?search=WORDS, or leave the item out",
            )
        history = np.array([index[key] for key in keys if key in index], dtype=np.int32)
        if not len(history) and self.settings.empty_history == "refuse":
            raise RefusedError(
                422,
                "a history without known items",
                rule="a history holds an item of the catalogue (serve.empty_history=refuse)",
                remedy="send items that the catalogue has; GET /items lists some",
            )
        return history, history, unknown

    def _check_length(self, number: int) -> None:
        if number > self.settings.max_items:
            raise RefusedError(
                422,
                f"{number} items",
                rule=f"a history has at most {self.settings.max_items} items (serve.max_items)",
                remedy="send the newest ones: the model reads only the last of them",
            )


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


def _answer(
    served: Served, request: RecommendRequest, history: Items, unknown: list[str], found: Found
) -> Recommendation:
    catalogue = served.catalogue
    fewer = None
    if len(found.items) < request.k:
        fewer = f"{len(found.items)} of {request.k} items: no other item of the catalogue may be recommended here"
    return Recommendation(
        items=[
            RecommendedItem(**dict(catalogue.item(item)), rank=rank, score=score)
            for rank, (item, score) in enumerate(zip(found.items, found.scores, strict=True), start=1)
        ],
        history=[catalogue.keys[item] for item in history.tolist()],
        unknown=unknown,
        bundle=served.digest,
        fewer=fewer,
    )
