"""`trialign serve` under load: latency, users per second next to the ranker alone, memory, reloads, its end.

    python -m benchmarks.serve --only load --run RUN --json FILE
    python -m benchmarks.serve --only load --run RUN --minutes 30    # the soak: memory after minute 5 and at the end

Closed loops: each client sends its next request when it has the answer to the last. Clients, service and ranker share
the machine, so the rate of the service includes what the clients cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import trialign
from benchmarks.record import Row, alone, compare

_CLIENTS = (1, 8, 64)
_MOST_HISTORIES = 512
_WARM_MINUTES = 5


class Loaded(NamedTuple):
    """What a load saw: seconds of every answer, answers that were not 200, digests, and how long it lasted."""

    seconds: list[float]
    wrong: list[str]
    bundles: set[str]
    lasted: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.seconds) / self.lasted


def measure(folder: Path, scratch: Path, seconds: float, minutes: float) -> list[Row]:
    """Return all rows."""
    run = trialign.Run(folder, accelerator="cpu")
    examples = [
        example.history for _, example in zip(range(_MOST_HISTORIES), run.dataset.examples("test"), strict=False)
    ]
    requests = [_request("/recommend", {"items": history, "k": 10}) for history in examples]
    served, other = _two_runs(folder, scratch)
    command = [sys.executable, "-m", "trialign.launch.cli", "serve", f"run={served}", "serve.port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(next(line for line in process.stdout if line.startswith("serving")).rpartition(":")[2])
    asyncio.run(_load(port, requests, 8, 2))  # warm
    rows, start = [], _memory(process.pid)
    for clients in _CLIENTS:
        before = _ranker_rate(run, examples, seconds / 2)
        found = asyncio.run(_load(port, requests, clients, seconds))
        alone_rate = (before + _ranker_rate(run, examples, seconds / 2)) / 2
        setting = f"{clients} clients"
        rows += [
            alone("serve.p50", setting, float(np.percentile(found.seconds, 50)) * 1e3, "ms"),
            alone("serve.p99", setting, float(np.percentile(found.seconds, 99)) * 1e3, "ms"),
            compare("serve.rate", setting, found.rate, "ranker alone, batches of 64", alone_rate, "users/s"),
            alone("serve.errors", setting, len(found.wrong), "answers"),
        ]
    rows += asyncio.run(_reloads(port, requests, seconds, (served, other)))
    if minutes:
        warm = asyncio.run(_load(port, requests, 64, 60 * min(_WARM_MINUTES, minutes / 2)))
        start = _memory(process.pid)
        soak = asyncio.run(_load(port, requests, 64, 60 * (minutes - min(_WARM_MINUTES, minutes / 2))))
        rows.append(alone("serve.errors", f"soak of {minutes:g} minutes", len(warm.wrong + soak.wrong), "answers"))
    end = _memory(process.pid)
    rows.append(compare("serve.memory", "resident, at the end", end, "at the start, warm", start, "MiB"))
    process.send_signal(signal.SIGTERM)
    rows.append(alone("serve.exit", "after SIGTERM", process.wait(120), "exit code"))
    return rows


def _two_runs(folder: Path, scratch: Path) -> tuple[Path, Path]:
    """Return a link to the run, and a copy that has another digest and the same numbers."""
    served, other = scratch / "served", scratch / "other"
    served.symlink_to(folder.absolute())
    shutil.copytree(folder, other)
    path = other / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"hash": manifest["hash"][::-1]}))
    return served, other


async def _reloads(port: int, requests: list[bytes], seconds: float, runs: tuple[Path, Path]) -> list[Row]:
    """Return what a load saw while two runs took turns."""
    link, other = runs
    first = link.resolve()
    load = asyncio.create_task(_load(port, requests, 8, seconds))
    changed, turn = 0, 0
    while not load.done():
        turn += 1
        aside = link.with_name("aside")
        aside.symlink_to(other if turn % 2 else first)
        aside.replace(link)
        status, body = await _once(port, _request("/reload", {}))
        changed += status == 200 and bool(json.loads(body)["changed"])
    found = await load
    return [
        alone("serve.reloads", "8 clients", changed, "swaps"),
        alone("serve.errors", "8 clients, reloads", len(found.wrong), "answers"),
        alone("serve.bundles", "8 clients, reloads", len(found.bundles), "digests"),
    ]


async def _load(port: int, requests: list[bytes], clients: int, seconds: float) -> Loaded:
    found = Loaded([], [], set(), seconds)
    begin = time.perf_counter()

    async def ask(client: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = client
        while (sent := time.perf_counter()) < begin + seconds:
            writer.write(requests[number % len(requests)])
            number += clients
            status, body = await _answer(reader)
            found.seconds.append(time.perf_counter() - sent)
            if status == 200:
                found.bundles.add(body.partition(b'"bundle":"')[2][:64].decode())
            else:
                found.wrong.append(f"{status} {body[:200]!r}")
        writer.close()

    await asyncio.gather(*map(ask, range(clients)))
    return found._replace(lasted=time.perf_counter() - begin)


async def _once(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await _answer(reader)
    writer.close()
    return answer


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


def _request(path: str, body: object) -> bytes:
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return head.encode() + b"\r\n\r\n" + text


def _ranker_rate(run: trialign.Run, histories: list[tuple[str, ...]], seconds: float) -> float:
    """Return users per second of the ranker in batches of 64, the service being idle."""
    ranker = run.ranker(num_beams=50, batch_size=64)
    batch = [np.array([run.dataset.item_of(key) for key in history], np.int32) for history in histories[:64]]
    ranker.rank(batch, 10, exclude=batch)
    done, begin = 0, time.perf_counter()
    while (lasted := time.perf_counter() - begin) < seconds:
        ranker.rank(batch, 10, exclude=batch)
        done += len(batch)
    return done / lasted


def _memory(process: int) -> float:
    """Return resident MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
