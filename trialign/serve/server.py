"""Run the app: listen, and on SIGTERM answer what is in flight and end."""

from __future__ import annotations

import logging
import signal
import socket

import uvicorn

from trialign.config.serve import ServeConfig
from trialign.errors import ConfigError
from trialign.serve.app import build_app
from trialign.serve.served import Served
from trialign.serve.service import Service

log = logging.getLogger("trialign")


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


def serve(served: Served, settings: ServeConfig, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then those in flight."""
    service = Service(served, settings)
    config = uvicorn.Config(
        build_app(service), log_config=None, access_log=False, server_header=False, lifespan="off", ws="none"
    )
    # uvicorn hands a signal on once it has ended: ignored then, so that a drained service exits with 0.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        host, port, *_ = listener.getsockname()
        log.info("serving %s at http://%s:%d", served.digest[:12], f"[{host}]" if ":" in host else host, port)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        service.batcher.close()
        for number, handler in before.items():
            signal.signal(number, handler)
