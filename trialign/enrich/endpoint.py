"""Backend `endpoint`: any server of OpenAI-compatible chat completions, a bounded number of questions at a time."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from trialign.enrich.protocol import Failure, Reply, Request


@dataclass(frozen=True)
class Endpoint:
    """The server at `url` (which ends in /v1); times in seconds. The key is never part of `repr` or `identity`."""

    url: str
    model: str
    headers: Any
    concurrency: int = 8
    max_tokens: int = 512
    time_limit: float = 120.0
    tries: int = 5
    first_wait: float = 1.0

    def __repr__(self) -> str:
        return f"Endpoint({self.url}, {self.model})"

    @property
    def identity(self) -> str:
        """Server, model and decoding settings."""
        return f"endpoint {self.url} {self.model} temperature=0 max_tokens={self.max_tokens}"

    def answer(self, requests: Sequence[Request], keep: Callable[[int, Reply | Failure], None]) -> None:
        """Ask all `requests`, `concurrency` at a time; see Backend."""
        asyncio.run(self._answer(enumerate(requests), keep))

    async def _answer(self, todo: Iterator[tuple[int, Request]], keep: Callable[[int, Reply | Failure], None]) -> None:
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(headers=self.headers, timeout=self.time_limit, limits=limits) as client:

            async def work() -> None:
                for index, request in todo:
                    keep(index, await self._ask(client, request))

            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(work())

    async def _ask(self, client: httpx.AsyncClient, request: Request) -> Reply | Failure:
        for number in range(self.tries):
            answer, wait = await self._once(client, request)
            if isinstance(answer, Reply) or wait is None or number == self.tries - 1:
                return answer
            # Jitter, so that those turned away together do not come back together.
            await asyncio.sleep(max(wait, self.first_wait * 2**number * random.uniform(0.5, 1.0)))
        raise AssertionError("tries is at least 1")

    async def _once(self, client: httpx.AsyncClient, request: Request) -> tuple[Reply | Failure, float | None]:
        """Return the answer, and where asking again may help the least wait before that."""
        start = time.monotonic()
        try:
            # httpx limits each read; a server that drips bytes needs a limit on the whole.
            async with asyncio.timeout(self.time_limit):
                response = await client.post(f"{self.url}/chat/completions", json=self._body(request))
        except (TimeoutError, httpx.TimeoutException):
            return Failure("timeout"), 0.0
        except httpx.TransportError as cause:
            return Failure("connection", type(cause).__name__), 0.0
        status = response.status_code
        if status != 200:
            told = response.headers.get("retry-after", "")
            wait = float(told) if told.isdecimal() else 0.0
            return Failure(f"http_{status}", response.text[:200]), wait if status == 429 or status >= 500 else None
        try:
            found = response.json()
            message = found["choices"][0]["message"]
            if message.get("refusal"):
                return Failure("refused", str(message["refusal"])[:200]), None
            tokens = int((found.get("usage") or {}).get("total_tokens", 0))
            return Reply(str(message["content"] or ""), tokens, time.monotonic() - start), None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Failure("protocol", response.text[:200]), 0.0

    def _body(self, request: Request) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": request.text}]
        if request.image is not None:
            kind = "png" if request.image.startswith(b"\x89PNG") else "jpeg"
            url = f"data:image/{kind};base64,{base64.b64encode(request.image).decode()}"
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
