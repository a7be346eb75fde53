"""Backend `endpoint`: any server with an OpenAI-compatible chat completions API, with bounded concurrency."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from trialign.config.enrich import EndpointBackendConfig
from trialign.enrich.protocol import Failure, Reply, Request, Requests
from trialign.errors import ConfigError
from trialign.foreign import parse_json

_MOST_BYTES = 8 << 20
"""Of a reply, unpacked: a thousand times what `max_tokens` makes, also next to the figures that `extra` may ask for.

A server that never ends would fill the memory long before `timeout`.
"""
_OVERSIZED = (
    f"a reply of more than {_MOST_BYTES >> 20} MiB; one answer to one question is smaller; see that url is a server of "
    "chat completions, and lower max_tokens or what extra asks for"
)


class Endpoint:
    """A client of one chat completions server.

    Args:
        settings: of a group's option `endpoint`; the key is read once from its environment variable, shown nowhere.

    Raises:
        ConfigError: the key's variable is not set, or `url` is not an address.
    """

    def __init__(self, settings: EndpointBackendConfig) -> None:
        url = settings.url
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url={url}", rule="a server's address", remedy="e.g. url=http://127.0.0.1:8000/v1")
        self._url, self._model, self._extra = url.rstrip("/"), settings.model, dict(settings.extra)
        self._headers = _headers(settings.api_key_env)
        self._max_tokens, self._concurrency, self._timeout = settings.max_tokens, settings.concurrency, settings.timeout
        self._max_attempts, self._backoff = settings.max_attempts, settings.backoff

    @property
    def source(self) -> str:
        """Return `endpoint` and the model."""
        return f"endpoint {self._model}"

    @property
    def identity(self) -> str:
        """Return the model and decoding settings; the server's address does not affect replies."""
        return f"{self.source} temperature=0 max_tokens={self._max_tokens} {json.dumps(self._extra, sort_keys=True)}"

    def answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        """Ask all `requests`, `concurrency` at a time; see Backend."""
        try:
            asyncio.run(self._answer(requests, keep))
        except BaseExceptionGroup as group:
            # Raise the task's own error: that it came from one of several asyncio tasks does not help the reader.
            raise group.exceptions[0] from None

    async def _answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        # As many requests are prepared as are in flight, so that no worker waits when several replies come together.
        ready: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(self._concurrency)

        async def prepare() -> None:
            for name, request in requests:
                await ready.put((name, json.dumps(self._body(request)).encode()))
                await asyncio.sleep(0)  # let the workers run first
            for _ in range(self._concurrency):
                await ready.put(None)

        async def work(session: aiohttp.ClientSession) -> None:
            while (entry := await ready.get()) is not None:
                name, body = entry
                keep(name, await self._ask(session, body))

        # The timeout covers the whole attempt, because a server that sends byte by byte passes any timeout per read.
        limits = aiohttp.ClientTimeout(total=self._timeout)
        connections = aiohttp.TCPConnector(limit=self._concurrency)
        async with (
            aiohttp.ClientSession(
                connector=connections, timeout=limits, headers=self._headers, trust_env=True
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(prepare())
            for _ in range(self._concurrency):
                group.create_task(work(session))

    async def _ask(self, session: aiohttp.ClientSession, body: bytes) -> Reply | Failure:
        for number in range(self._max_attempts):
            answer, wait = await self._once(session, body)
            if isinstance(answer, Reply) or wait is None or number == self._max_attempts - 1:
                return answer
            # Jitter, so that requests that were refused together are not retried together.
            await asyncio.sleep(max(wait, self._backoff * 2**number * random.uniform(0.5, 1.0)))
        raise AssertionError("max_attempts is at least 1")

    async def _once(self, session: aiohttp.ClientSession, body: bytes) -> tuple[Reply | Failure, float | None]:
        """Send one request; return the answer, and the least wait before a retry or None if a retry cannot help."""
        start = time.monotonic()
        try:
            async with session.post(f"{self._url}/chat/completions", data=body, allow_redirects=False) as response:
                text, whole = await _read_body(response)
        except TimeoutError:
            return Failure("timeout"), 0.0
        except aiohttp.ClientError as cause:
            return Failure("connection", type(cause).__name__), 0.0
        status = response.status
        if status != 200:
            told = response.headers.get("retry-after", "")
            wait = min(float(told), self._timeout) if told.isdecimal() else 0.0
            return Failure(f"http_{status}", text[:200]), wait if status == 429 or status >= 500 else None
        if not whole:
            return Failure("oversized", _OVERSIZED), None
        try:
            return _read(text, time.monotonic() - start), None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):
            return Failure("protocol", text[:200]), 0.0

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


async def _read_body(response: aiohttp.ClientResponse) -> tuple[str, bool]:
    """Return the response body up to the size limit, and whether it is complete."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MOST_BYTES:
            response.close()  # do not wait for the rest
            return body.decode(errors="replace"), False
    return body.decode(errors="replace"), True


def _read(text: str, seconds: float) -> Reply | Failure:
    found = parse_json(text)
    choice = found["choices"][0]
    message = choice["message"]
    if message.get("refusal"):
        return Failure("refused", str(message["refusal"])[:200])
    content = message["content"] or ""
    if not isinstance(content, str):
        raise TypeError("content is no text")
    tokens = int((found.get("usage") or {}).get("total_tokens", 0))
    return Reply(content, tokens, seconds, choice.get("finish_reason") == "length")


def _headers(api_key_env: str | None) -> dict[str, str]:
    kind = {"Content-Type": "application/json"}
    if api_key_env is None:
        return kind
    if not os.environ.get(api_key_env):
        raise ConfigError(
            f"api_key_env={api_key_env}, but that environment variable is not set",
            rule="the server's key is in the environment, never in a config or a manifest",
            remedy=f"export {api_key_env}=..., or set api_key_env=null for a server without a key",
        )
    return kind | {"Authorization": f"Bearer {os.environ[api_key_env]}"}
