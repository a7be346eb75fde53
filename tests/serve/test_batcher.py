"""Requests that wait while a batch is ranked: ranked together, by what each was checked against, or refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from trialign.serve.batcher import Ask, Batcher, Found
from trialign.serve.refusal import RefusedError
from trialign.serve.served import Served


def ranked_while_one_is_held(
    make: Callable[..., Served], asked: Sequence[tuple[Served, list[int]]], room: int = 10
) -> tuple[list[Any], list[int]]:
    """Return the answers to (served, history) that waited while another was ranked, and the sizes of batches."""
    started, go = threading.Event(), threading.Event()
    plain = make().rank
    sizes: list[int] = []

    def held(*args: Any, **how: Any) -> Any:
        started.set()
        assert go.wait(30)
        return plain(*args, **how)

    async def send() -> list[Any]:
        def ask(served: Served, history: list[int]) -> asyncio.Task[Found]:
            items = np.array(history, np.int32)
            return asyncio.create_task(batcher.rank(Ask(served, items, items, 1)))

        batcher = Batcher(64, room, sizes.append)
        first = ask(make(rank=held), [0])
        await asyncio.to_thread(started.wait, 30)
        rest = [ask(served, history) for served, history in asked]
        await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(first, *rest, return_exceptions=True)
        batcher.close()
        return answers[1:]

    return asyncio.run(send()), sizes


def test_what_waited_is_ranked_together(served: Callable[..., Served]) -> None:
    one = served()
    answers, sizes = ranked_while_one_is_held(served, [(one, [1]), (one, [2]), (one, [])])
    assert [answer.items for answer in answers] == [[2], [3], [0]]
    assert sizes == [1, 3]


def test_requests_of_two_bundles_are_not_ranked_together(served: Callable[..., Served]) -> None:
    def other(histories: Any, k: int, **how: Any) -> Any:
        items, scores = served().rank(histories, k, **how)
        return items * 0 + 11, scores

    old, new = served("first"), served("second", rank=other)
    answers, sizes = ranked_while_one_is_held(served, [(old, [1]), (old, [2]), (new, [1]), (new, [2])])
    assert [answer.items for answer in answers] == [[2], [3], [11], [11]]
    assert sizes == [1, 2, 2]


def test_a_request_that_makes_the_ranker_fail_fails_alone(served: Callable[..., Served]) -> None:
    def choosy(histories: Any, k: int, **how: Any) -> Any:
        assert not any(3 in history for history in histories)
        return served().rank(histories, k, **how)

    one = served(rank=choosy)
    answers, _ = ranked_while_one_is_held(served, [(one, [1]), (one, [3]), (one, [2])])
    assert (answers[0].items, answers[2].items) == ([2], [3])
    assert isinstance(answers[1], RefusedError)
    assert answers[1].status == 503


def test_beyond_its_room_requests_are_refused_and_told_when_to_come_again(served: Callable[..., Served]) -> None:
    one = served()
    answers, _ = ranked_while_one_is_held(served, [(one, [1])] * 3, room=2)
    assert [answer.items for answer in answers[:2]] == [[2], [2]]
    refused = answers[2]
    assert isinstance(refused, RefusedError)
    assert (refused.status, refused.headers) == (503, {"retry-after": "1"})
    assert "serve.max_queue" in refused.rule


def test_after_the_end_nothing_is_taken(served: Callable[..., Served]) -> None:
    async def ask() -> None:
        batcher = Batcher(1, 1, lambda _size: None)
        batcher.close()
        assert not batcher.alive
        nothing = np.empty(0, np.int32)
        with pytest.raises(RefusedError):
            await batcher.rank(Ask(served(), nothing, nothing, 1))

    asyncio.run(ask())
