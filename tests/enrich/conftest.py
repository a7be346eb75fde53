"""A server of chat completions that misbehaves as told and remembers what it was asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trialign.runtime.torchvision_fault import repair_torchvision

repair_torchvision()  # tests import open_clip before the package does

HALF = 10


class Server(ThreadingHTTPServer):
    """Does what `script` says, one word per request, then answers well; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script: list[str] = []
        self.asked: list[dict] = []
        self.told = threading.Condition()
        self.released = threading.Event()
        self.seconds = 0.0
        self.says = sensible
        self.under_way = self.most = self.sent = 0

    def questions(self) -> list[str]:
        """Return every question asked, text and picture, as often as it was asked."""
        return [json.dumps(body["messages"][0]["content"]) for body in self.asked]

    def wait_for(self, number: int, seconds: float = 120.0) -> bool:
        """Wait until so many requests have come."""
        with self.told:
            return self.told.wait_for(lambda: len(self.asked) >= number, seconds)


def sensible(text: str, image: str | None) -> str:
    """Answer in the form that was asked for; what is said depends on the question alone."""
    mark = hashlib.sha256((text + (image or "")).encode()).hexdigest()[:6]
    if image is not None:
        return f"A thing with the look {mark}."
    (most,) = re.findall(r"up to (\d+) interests", text)
    found = [{"interest": f"use {k} of {mark}", "confidence": round(1 / k, 3)} for k in range(1, min(int(most), 3) + 1)]
    return json.dumps({"reasoning": f"for {mark}", "interests": found} if "reasoning" in text else found)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.told:
            self.server.asked.append(body)
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
            fault = self.server.script.pop(0) if self.server.script else "good"
            self.server.told.notify_all()
        try:
            self._do(fault, body)
        finally:
            with self.server.told:
                self.server.under_way -= 1

    def _do(self, fault: str, body: dict) -> None:
        if fault == "hang":
            self.server.released.wait(10)
        elif fault == "drop":
            self.close_connection = True
        elif fault.isdecimal():
            self._send(int(fault), b"no", 2)
        elif fault == "shape":
            self._send(200, b"[]", 2)
        elif fault == "deep":
            self._send(200, b"[" * 100_000, 100_000)
        elif fault in ("endless", "drip"):
            self._send(200, b" ", 1 << 40)
            self._go_on(fault)
        else:
            time.sleep(self.server.seconds)
            good = self._good(body)
            self._send(200, good[:HALF] if fault == "half" else good, len(good))
            self.close_connection = fault == "half"

    def _good(self, body: dict) -> bytes:
        content = body["messages"][0]["content"]
        image = next((part["image_url"]["url"] for part in content if part["type"] == "image_url"), None)
        text = next(part["text"] for part in content if part["type"] == "text")
        choice = {"message": {"content": self.server.says(text, image)}, "finish_reason": "stop"}
        return json.dumps({"choices": [choice], "usage": {"total_tokens": 7}}).encode()

    def _go_on(self, fault: str) -> None:
        """Send more until whoever asked has gone."""
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not self.server.released.wait(0.01 if fault == "drip" else 0):
                self.wfile.write(b" " if fault == "drip" else b" " * (1 << 20))
                self.server.sent += 1

    def _send(self, status: int, body: bytes, length: int) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked is dead

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()
