"""Run the app: listen, and on SIGTERM answer what is in flight and end."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import time
from typing import ClassVar

import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from trialign.config.serve import ServeConfig
from trialign.errors import ConfigError
from trialign.serve.app import build_app
from trialign.serve.service import Service

log = logging.getLogger("trialign")

_OTHER_FILES = 200
_PATIENCE = 60
"""Seconds after which requests in flight are given up when the service ends."""


def bind(settings: ServeConfig) -> socket.socket:
    """Return a socket bound to the address; it does not listen yet.

    Raises:
        ConfigError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as cause:
        listener.close()
        raise ConfigError(
            f"serve.host={settings.host} serve.port={settings.port}: {cause}",
            rule="a service listens on an address of this machine and a free port",
            remedy="set serve.port=0 for a free port, or end what uses this one",
        ) from cause
    return listener


def serve(service: Service, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then those in flight."""
    _allow_files(2 * service.settings.max_connections)

    class Limited(Connection):
        patience = service.settings.request_timeout

    config = uvicorn.Config(
        build_app(service),
        http=Limited,
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_PATIENCE,
    )
    server = _Server(config, service)
    service.connections = lambda: len(server.server_state.connections)
    # uvicorn hands a signal on once it has ended: ignored then, so that a drained service exits with 0.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        service.batcher.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, as far as it may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted += _OTHER_FILES
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


class _Server(uvicorn.Server):
    """Ends a while after it was asked to.

    Meanwhile a load balancer sees /ready fail, and each answer closes its connection.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._end = 0.0

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port, *_ = listener.getsockname()
            at = f"[{host}]" if ":" in host else host
            log.info("serving %s at http://%s:%d", self._service.served.digest[:12], at, port)

    @override
    async def on_tick(self, counter: int) -> bool:
        ending = await super().on_tick(counter)
        if ending and not self._service.draining:
            self._service.draining = True
            self._end = time.monotonic() + self._service.settings.drain_seconds
        return ending and (self.force_exit or time.monotonic() >= self._end)


class Connection(H11Protocol):
    """A connection that is closed if the headers of a request take too long to arrive."""

    patience: ClassVar[float]
    """Seconds for the headers of a request."""

    _timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Start the clock where headers are awaited, and stop it where a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.patience, self.transport.close)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
