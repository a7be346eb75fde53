"""A service as a process of its own: SIGTERM under load, slow clients, many connections, large bodies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("process.py")
BODY = json.dumps({"items": ["k1"], "k": 2}).encode()
HEAD = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
REQUEST = HEAD % len(BODY) + BODY
PATIENCE = 60.0


class Process:
    """A service, and how to talk to it over sockets."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *settings],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        lines = iter(self.process.stderr)
        told = next(line for line in lines if "serving" in line)
        self.port = int(told.rpartition(":")[2])
        self._rest = threading.Thread(target=lambda: self.log.write_text(told + "".join(lines)))
        self._rest.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._rest.join()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*settings: str) -> Process:
        started.append(Process(tmp_path, *settings))
        return started[-1]

    yield begin
    for process in started:
        process.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Return a service with tight limits, which the tests leave alive."""
    process = Process(tmp_path_factory.mktemp("shared"), "request_timeout=2", "max_connections=40")
    yield process
    process.end()
    assert "Traceback" not in process.log.read_text()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body; status 0 where the connection was closed without a byte."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65536)):
            assert not received, received
            return 0, {}, None
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    while "content-length" in headers and len(body) < int(headers["content-length"]):
        part = connection.recv(65536)
        assert part, "an answer ends in the middle"
        body += part
    return int(first.split()[1]), headers, body


def test_sigterm_under_load_answers_what_was_sent_and_ends(start: Callable[..., Process]) -> None:
    """Every client asks on one connection until it is closed: a request that was sent is answered."""
    process = start("drain_seconds=0.5")
    answered: list[int] = []
    busy = threading.Event()
    lost: list[str] = []

    def ask() -> None:
        with process.connect() as connection:
            while True:
                connection.sendall(REQUEST)
                status, headers, body = read_answer(connection)
                if status != 200 or json.loads(body)["items"][0]["item"] != "k2":
                    lost.append(f"{status} {body}")
                    return
                answered.append(status)
                if len(answered) >= 64:
                    busy.set()
                if headers.get("connection") == "close":
                    return

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    assert busy.wait(PATIENCE)
    process.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(PATIENCE)
    assert process.process.wait(PATIENCE) == 0
    assert not lost, lost
    with pytest.raises(ConnectionRefusedError):
        process.connect()
    assert not [path for path in Path("/proc").glob("[0-9]*") if _group(path) == process.process.pid]


def _group(process: Path) -> int:
    with contextlib.suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    return 0


def test_before_the_end_a_load_balancer_is_warned(start: Callable[..., Process]) -> None:
    process = start("drain_seconds=1000")
    process.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with process.connect() as connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
            status, headers, body = read_answer(connection)
        if status == 503:
            break
    assert json.loads(body)["error"]["value"] == "ending"
    assert headers["connection"] == "close"
    with process.connect() as connection:
        connection.sendall(REQUEST)
        assert read_answer(connection)[0] == 200


def answers(process: Process) -> bool:
    with process.connect() as connection:
        connection.sendall(REQUEST)
        return read_answer(connection)[0] == 200


def test_clients_that_send_slowly_are_given_up_and_others_are_answered(shared: Process) -> None:
    with shared.connect() as silent, shared.connect() as headers, shared.connect() as body, shared.connect() as again:
        headers.sendall(b"POST /recommend HTTP/1.1\r\nhost:")
        body.sendall(HEAD % len(BODY) + BODY[:3])
        again.sendall(REQUEST)
        assert read_answer(again)[0] == 200
        again.sendall(b"POST /recommend HT")
        assert read_answer(body)[0] == 408
        assert [read_answer(slow)[0] for slow in (silent, headers, again)] == [0, 0, 0]
    assert answers(shared)


def test_beyond_the_limit_connections_are_refused_with_words(shared: Process) -> None:
    held, statuses = [], []
    for _ in range(42):
        held.append(connection := shared.connect())
        connection.sendall(b"GET /items/k1 HTTP/1.1\r\nhost: x\r\n\r\n")
        statuses.append(read_answer(connection))
    refused = [found for found in statuses if found[0] == 503]
    assert {found[0] for found in statuses} == {200, 503}
    _, headers, body = refused[0]
    assert (headers["retry-after"], headers["connection"]) == ("1", "close")
    assert "serve.max_connections" in json.loads(body)["error"]["rule"]
    for connection in held:
        connection.close()
    end = time.monotonic() + PATIENCE
    while not answers(shared):
        assert time.monotonic() < end


def test_a_large_body_is_read_to_its_end_so_that_the_client_reads_the_answer(shared: Process) -> None:
    size = 45 * 2**20
    with shared.connect() as large:
        large.sendall(HEAD % size)
        for _ in range(45):
            large.sendall(b" " * 2**20)
        status, _, body = read_answer(large)
    assert status == 413
    assert "rule" in json.loads(body)["error"]
    assert answers(shared)


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00", b"\x00" * 100, b"GET /" + b"x" * 200_000, b"\r\n" * 9])
def test_noise_is_refused(shared: Process, noise: bytes) -> None:
    with shared.connect() as bad, contextlib.suppress(ConnectionError):
        bad.sendall(noise + b"\r\n\r\n")
        assert read_answer(bad)[0] in (0, 400)
    assert answers(shared)
