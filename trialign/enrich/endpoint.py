"""Backend `endpoint`: any server of OpenAI-compatible chat completions, a bounded number of questions at a time."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from trialign.enrich.protocol import Failure, Reply, Request, Requests
from trialign.errors import ConfigError


class Endpoint:
    """A server.

    Args:
        url: up to `/v1`.
        model: as the server calls it.
        key_from: environment variable with the key; it is read once and shown nowhere.
        max_tokens: longest reply.
        extra: further fields of every request.
        concurrency: questions at a time.
        time_limit: seconds of one try.
        tries: of a question that gets no reply.
        first_wait: seconds before the second try; doubles with each.

    Raises:
        ConfigError: the key's variable is not set, or a number is out of range.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key_from: str | None = None,
        max_tokens: int = 512,
        extra: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        time_limit: float = 120.0,
        tries: int = 5,
        first_wait: float = 1.0,
    ) -> None:
        _check(url, concurrency=concurrency, tries=tries, max_tokens=max_tokens)
        self._url, self._model, self._extra = url.rstrip("/"), model, dict(extra or {})
        self._headers = _headers(key_from)
        self._max_tokens, self._concurrency, self._time_limit = max_tokens, concurrency, time_limit
        self._tries, self._first_wait = tries, first_wait

    @property
    def source(self) -> str:
        """Return `endpoint` and the model."""
        return f"endpoint {self._model}"

    @property
    def identity(self) -> str:
        """Return model and decoding settings; where the server stands changes no reply."""
        return f"{self.source} temperature=0 max_tokens={self._max_tokens} {json.dumps(self._extra, sort_keys=True)}"

    def answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        """Ask all `requests`, `concurrency` at a time; see Backend."""
        try:
            asyncio.run(self._answer(requests, keep))
        except BaseExceptionGroup as group:
            # Whoever reads it should see what went wrong, not that it went wrong in one of several tasks.
            raise group.exceptions[0] from None

    async def _answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        # As many stand ready as are under way: replies that come together find their workers' next questions made.
        ready: asyncio.Queue[tuple[str, httpx.Request] | None] = asyncio.Queue(self._concurrency)
        certificates = httpx.create_ssl_context()

        async def prepare() -> None:
            for name, request in requests:
                await ready.put((name, self._built(request)))
            for _ in range(self._concurrency):
                await ready.put(None)

        async def work() -> None:
            # A client each: a shared one looks through all its connections for every question and every reply.
            async with httpx.AsyncClient(verify=certificates) as client:
                while (entry := await ready.get()) is not None:
                    name, built = entry
                    keep(name, await self._ask(client, built))

        async with asyncio.TaskGroup() as group:
            group.create_task(prepare())
            for _ in range(self._concurrency):
                group.create_task(work())

    async def _ask(self, client: httpx.AsyncClient, built: httpx.Request) -> Reply | Failure:
        for number in range(self._tries):
            answer, wait = await self._once(client, built)
            if isinstance(answer, Reply) or wait is None or number == self._tries - 1:
                return answer
            # Jitter, so that those turned away together do not come back together.
            await asyncio.sleep(max(wait, self._first_wait * 2**number * random.uniform(0.5, 1.0)))
        raise AssertionError("tries is at least 1")

    async def _once(self, client: httpx.AsyncClient, built: httpx.Request) -> tuple[Reply | Failure, float | None]:
        """Return the answer, and where asking again may help the least wait before that."""
        start = time.monotonic()
        try:
            # httpx limits each read; a server that drips bytes needs a limit on the whole.
            async with asyncio.timeout(self._time_limit):
                response = await client.send(built)
        except (TimeoutError, httpx.TimeoutException):
            return Failure("timeout"), 0.0
        except httpx.HTTPError as cause:
            return Failure("connection", type(cause).__name__), 0.0
        status = response.status_code
        if status != 200:
            told = response.headers.get("retry-after", "")
            wait = min(float(told), self._time_limit) if told.isdecimal() else 0.0
            return Failure(f"http_{status}", response.text[:200]), wait if status == 429 or status >= 500 else None
        try:
            found = response.json()
            choice = found["choices"][0]
            message = choice["message"]
            if message.get("refusal"):
                return Failure("refused", str(message["refusal"])[:200]), None
            tokens = int((found.get("usage") or {}).get("total_tokens", 0))
            cut = choice.get("finish_reason") == "length"
            text = message["content"] or ""
            if not isinstance(text, str):
                raise TypeError("content is no text")
            return Reply(text, tokens, time.monotonic() - start, cut), None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Failure("protocol", response.text[:200]), 0.0

    def _built(self, request: Request) -> httpx.Request:
        address = f"{self._url}/chat/completions"
        limits = {"timeout": httpx.Timeout(self._time_limit).as_dict()}
        return httpx.Request("POST", address, headers=self._headers, json=self._body(request), extensions=limits)

    def _body(self, request: Request) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": request.text}]
        if request.image is not None:
            kind = "png" if request.image.startswith(b"\x89PNG") else "jpeg"
            url = f"data:image/{kind};base64,{base64.b64encode(request.image).decode()}"
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        messages = [{"role": "user", "content": content}]
        return {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._max_tokens,
        } | self._extra


def _headers(key_from: str | None) -> dict[str, str]:
    if key_from is None:
        return {}
    if not os.environ.get(key_from):
        raise ConfigError(
            f"key_from={key_from}, but that environment variable is not set",
            rule="the server's key stands in the environment, never in a config or a manifest",
            remedy=f"export {key_from}=..., or set key_from=null for a server without a key",
        )
    return {"Authorization": f"Bearer {os.environ[key_from]}"}


def _check(url: str, **numbers: int) -> None:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"url={url}", rule="a server's address", remedy="e.g. url=http://127.0.0.1:8000/v1")
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name}={value}", rule=f"{name} is at least 1", remedy=f"set {name}=1 or more")
