"""The middleware before the routes: token, limits on bodies and connections, headers of answers, counts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import time
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trialign.serve.refusal import RefusedError, error_body

if TYPE_CHECKING:
    from trialign.serve.service import Service

log = logging.getLogger("trialign")

MOST_BYTES = 2**20
_DISCARDED = 64 * MOST_BYTES
"""Of a body that is too long, so much is read and dropped: a client that is still sending reads no answer."""

_OPEN = ("/health", "/ready")
_ADMIN = ("/reload", "/rollback")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Door:
    """Lets requests through to the app, or refuses them.

    Args:
        app: what answers those that pass.
        service: its limits and its counters.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if self._service.draining:
                    headers["connection"] = "close"
            await send(message)

        try:
            self._admit(scope)
            body = await self._read(scope, receive)
            if body is not None:
                await self._app(scope, _replay(body, receive), send_on)
        except RefusedError as error:
            await JSONResponse(error_body(error), error.status, error.headers)(scope, receive, send_on)
        except Exception:
            log.exception("a request failed")
            if not status:
                await JSONResponse(error_body(_unforeseen()), 503)(scope, receive, send_on)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.requests.labels(route, status or "none").inc()
            self._service.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        """Refuse by what is known before the body."""
        service, headers = self._service, Headers(scope=scope)
        if service.connections() > service.settings.max_connections:
            raise RefusedError(
                503,
                f"{service.connections()} connections",
                rule=f"at most {service.settings.max_connections} are open (serve.max_connections)",
                remedy="close idle ones, and send it again after Retry-After seconds",
                headers={"retry-after": "1", "connection": "close"},
            )
        path = scope["path"]
        if service.token is not None and path not in _OPEN and not _knows(headers, service.token):
            raise RefusedError(
                401,
                "no token, or a wrong one",
                rule="a request sends the token of this service",
                remedy="send the header Authorization: Bearer TOKEN; in a browser any name, and the token as password",
                headers={"www-authenticate": 'Basic realm="trialign", Bearer'},
            )
        if path in _ADMIN and service.token is None:
            _require_local(service.settings.host, headers)
        if scope["method"] == "POST" and _media_type(headers) != "application/json":
            # A form of a foreign page can send no JSON, so that no page makes a browser on this machine reload.
            raise RefusedError(
                415,
                f"content type '{headers.get('content-type', '')}'",
                rule="the body of a request is JSON",
                remedy="send the header Content-Type: application/json",
            )

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client has gone."""
        if scope["method"] in ("GET", "HEAD"):
            return b""
        parts: list[bytes] = []
        size = 0
        limit = self._service.settings.request_timeout
        try:
            async with asyncio.timeout(limit):
                while size <= _DISCARDED:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= MOST_BYTES:
                        parts.append(part)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise RefusedError(
                408,
                f"{size} bytes after {limit:g} s",
                rule=f"a request arrives within {limit:g} s (serve.request_timeout)",
                remedy="send it faster",
                headers={"connection": "close"},
            ) from None
        if size > MOST_BYTES:
            raise RefusedError(
                413,
                f"a body of {'more than ' * (size > _DISCARDED)}{size} bytes",
                rule=f"a body has at most {MOST_BYTES} bytes",
                remedy="send the newest items only, and name lists of items by serve.stock",
                headers={"connection": "close"},
            )
        return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _knows(headers: Headers, token: str) -> bool:
    """Return whether a request sends the token, as a bearer or as the password that a browser asks for."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())


def _require_local(host: str, headers: Headers) -> None:
    """Refuse to administer a service without a token from anywhere but its own machine.

    A proxy on this machine would pass others' requests on, and a foreign page whose name was bound to this address its
    own: both show in their headers.
    """
    named = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    forwarded = "forwarded" in headers or "x-forwarded-for" in headers
    if host not in _LOOPBACK or named.strip("[]") not in _LOOPBACK or forwarded:
        raise RefusedError(
            403,
            "a reload or rollback without a token",
            rule="without a token a service is administered from its own machine alone, directly",
            remedy="start it with serve.token_env=NAME and the token in that variable, and send the token",
        )


def _unforeseen() -> RefusedError:
    return RefusedError(
        503,
        "the service failed on this request",
        rule="a request is answered, or the reason is in the log of the service",
        remedy="see the log of the service",
    )
