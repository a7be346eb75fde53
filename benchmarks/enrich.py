"""The rate of the endpoint backend, against a server that answers every question after the same time.

    python -m benchmarks.enrich --json benchmarks/results/enrich.json

The server is a process of its own that does nothing but wait: with a latency of 100 ms and `c` questions under way at a
time no client can have more than 10 c replies a second. Each question carries a picture of 64 x 64 pixels, as the
storefront's do; every reply is read and kept in a cache on disk, as the stage does it.
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Row, arguments, compare, record
from trialign.config.enrich import EndpointBackendConfig
from trialign.enrich.asking import Annotator
from trialign.enrich.cache import ReplyCache
from trialign.enrich.captions import parse_caption
from trialign.enrich.endpoint import Endpoint
from trialign.enrich.protocol import Request

LATENCY = 0.1  # seconds
CONCURRENCIES = (1, 8, 32)
SECONDS = 12  # a run at the best possible rate


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    choice = {"message": {"content": "A plain thing of one color."}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": {"total_tokens": 80}}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = (
                line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            await reader.readexactly(int(length))
            due = loop.time() + LATENCY
            await asyncio.sleep(due - loop.time())
            writer.write(answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _serve(told: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_converse, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        async with server:
            await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def server() -> Iterator[str]:
    """Run the server in a process; yield its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.kill()
        process.join()


def pictures(number: int) -> list[bytes]:
    """Return pictures no two of which are alike."""
    draws = np.random.default_rng(0)
    made = []
    for _ in range(number):
        file = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG", quality=85)
        made.append(file.getvalue())
    return made


def rate(url: str, concurrency: int, made: list[bytes]) -> float:
    """Return replies per second of a whole run: keys, cache, requests, reading."""
    with tempfile.TemporaryDirectory() as folder:
        cache = ReplyCache(Path(folder), "0-of-1")
        annotator = Annotator(
            what="captions",
            backend=Endpoint(EndpointBackendConfig(url=url, model="waits", concurrency=concurrency)),
            questions=lambda items: ((item, Request("What is shown?", made[item])) for item in sorted(items)),
            read=parse_caption,
            prompt_hash="",
            max_side=1024,
            retries=0,
            max_failure_rate=0.0,
        )
        begin = time.perf_counter()
        asked = annotator.ask(range(len(made)), cache)
        seconds = time.perf_counter() - begin
        cache.close()
    assert asked.asked == len(made)
    return len(made) / seconds


def main() -> None:
    """Measure and record."""
    options = arguments(__doc__ or "").parse_args()
    rows: list[Row] = []
    with server() as url:
        rate(url, 8, pictures(16))  # what is imported late
        for concurrency in CONCURRENCIES:
            best = concurrency / LATENCY
            found = rate(url, concurrency, pictures(round(SECONDS * best)))
            rows.append(
                compare("enrich.endpoint", f"{concurrency} at a time", found, "no cost at all", best, "replies/s")
            )
    record(rows, options.json)


if __name__ == "__main__":
    main()
