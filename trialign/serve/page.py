"""The routes that only the page asks; the page itself is in `static/`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from xml.sax.saxutils import escape

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRouter

from trialign.errors import DataError
from trialign.foreign import Json
from trialign.html import shrink
from trialign.serve.answering import Answering
from trialign.serve.batcher import Ask
from trialign.serve.refusal import RefusedError
from trialign.serve.schema import RecommendRequest

router = APIRouter(include_in_schema=False)
"""Its answers are for the page alone: neither checked against a model nor part of OpenAPI."""

_SIDE = 144
"""Pixels of a picture's longer side; shown at half, for screens that have more."""

_NO_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" fill="#888" '
    'fill-opacity=".16"/><text x="32" y="42" font-family="sans-serif" font-size="28" fill="#888" '
    'text-anchor="middle">{}</text></svg>'
)
_MOST_WALKS = 4
_waiting, _turn = threading.BoundedSemaphore(_MOST_WALKS), threading.Lock()


@router.get("/about", response_model=None)
def about(service: Answering) -> dict[str, Json]:
    """Tell what the page can offer."""
    served = service.served
    return served.details.about() | {"bundle": served.digest, "lists": service.stock.names()}


@router.get("/sample", response_model=None)
def sample(service: Answering) -> dict[str, Json]:
    """Return a user, or a history, at random."""
    return service.served.details.sample()


@router.get("/users/{key:path}", response_model=None)
def user(key: str, service: Answering) -> dict[str, Json]:
    """Return what a user of the logs chose, and what came next."""
    details = service.served.details
    if details.of_run is None:
        raise RefusedError(
            404,
            f"user '{key}'",
            rule="an exported bundle holds no users",
            remedy="serve the run itself: trialign serve run=DIR",
        )
    with _known():
        return details.user(key)


@router.get("/codes", response_model=None)
def codes(
    service: Answering, prefix: Annotated[str, Query(max_length=200, pattern=r"^(\d{1,9}(\.\d{1,9})*)?$")] = ""
) -> dict[str, Json]:
    """Return what lies below a prefix such as 10.7 and next to it."""
    with _known():
        return service.served.details.codes(tuple(map(int, prefix.split("."))) if prefix else ())


@router.get("/pictures/{key:path}")
def picture(key: str, service: Answering) -> Response:
    """Return an item's picture, small; a letter where it has none."""
    served = service.served
    item, run = served.catalogue.index.get(key), served.of_run
    data = None if item is None or run is None else run.lookup.picture(item)
    headers = {"cache-control": "max-age=3600"}
    if data is not None:
        return Response(shrink(data, _SIDE), media_type="image/jpeg", headers=headers)
    title = "" if item is None else served.catalogue.titles[item].as_py()
    letter = next((letter for letter in title if letter.isalnum()), "")
    return Response(_NO_PICTURE.format(escape(letter)), media_type="image/svg+xml", headers=headers)


@router.post("/walk", response_model=None)
async def walk(request: RecommendRequest, service: Answering) -> dict[str, Json]:
    """Return the walk through the trie that led to a recommendation."""
    ask, _ = await service.ask(request)
    if ask.served.of_run is None:
        raise RefusedError(
            404,
            "the walk of an exported bundle",
            rule="only the search of a run is watched",
            remedy="serve the run itself: trialign serve run=DIR",
        )
    return {"bundle": ask.served.digest, "levels": await run_in_threadpool(_walk_in_turn, ask)}


def _walk_in_turn(ask: Ask) -> list[Json]:
    """Watch one search at a time, so that the page takes no more than a core from the requests that are ranked."""
    if not _waiting.acquire(blocking=False):
        raise RefusedError(
            503,
            f"{_MOST_WALKS} walks are wanted at once",
            rule="walks are shown one at a time, and few wait",
            remedy="choose again in a moment",
            headers={"retry-after": "1"},
        )
    try:
        with _turn:
            return ask.served.details.walk(ask.history, ask.k, exclude=ask.exclude, stock=ask.stock)
    finally:
        _waiting.release()


@contextmanager
def _known() -> Iterator[None]:
    """Answer 404 where the block looks up what does not exist."""
    try:
        yield
    except DataError as error:
        raise RefusedError(404, error.value, rule=error.rule, remedy=error.remedy) from error
