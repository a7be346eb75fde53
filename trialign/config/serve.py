"""Group `serve`: a service that recommends over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class ServeConfig:
    """What is served, where, and how much of it at a time."""

    bundle: str | None = option(None, "an exported folder that is served instead of the run; it knows no users")
    stock: str | None = option(None, "folder of named lists of items, NAME.txt with a key per line; read when changed")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: every address of the machine")
    port: int = option(8000, "port to listen on; 0: a free one, which is printed", least=0, most=65535)
    token_env: str | None = option(
        None, "environment variable with the token that every request but /health and /ready must send; null: none"
    )
    num_beams: int = option(50, "beams of the search, and the most items that a request may ask for", least=10)
    max_items: int = option(1000, "most items of a history that a request may send", least=1)
    max_batch: int = option(64, "most requests that are ranked together", least=1)
    max_queue: int = option(256, "most requests that wait to be ranked; 503 beyond it", least=1)
    max_connections: int = option(1000, "most open connections; 503 beyond it", least=1)
    request_timeout: float = option(10.0, "seconds in which a request must have arrived", above=0)
    drain_seconds: float = option(
        1.0, "seconds between SIGTERM, from which /ready answers 503, and the end of accepting connections", least=0
    )
    unknown_items: str = option(
        "skip", "items of a request that the catalogue lacks: skip and name them, or refuse", choices=("skip", "refuse")
    )
    empty_history: str = option(
        "answer", "a history without items: answer by the model's prior, or refuse", choices=("answer", "refuse")
    )
