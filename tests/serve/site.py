"""A service that answers on a port of this machine, in a thread, for as long as a test needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from trialign.config.serve import ServeConfig
from trialign.serve.app import build_app
from trialign.serve.served import Served
from trialign.serve.server import bind
from trialign.serve.service import Service
from trialign.serve.versions import Versions


class _Loaded:
    """A source of what is loaded already."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def load(self) -> Served:
        return self._served

    def size(self) -> int:
        return 0


@contextmanager
def answering(served: Served, **settings: Any) -> Iterator[str]:
    """Serve, and give the address of the page."""
    config = ServeConfig(port=0, **settings)
    service = Service(Versions(_Loaded(served), lambda: 1000), config)
    with bind(config) as listener:
        listener.listen()  # what connects before the server accepts waits
        server = uvicorn.Server(uvicorn.Config(build_app(service), log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
            service.batcher.close()
