"""The endpoint backend against a server that misbehaves."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trialign.enrich.endpoint import Endpoint
from trialign.enrich.protocol import Failure, Reply, Request

GOOD = json.dumps({"choices": [{"message": {"content": "fine"}}], "usage": {"total_tokens": 7}}).encode()


class Server(ThreadingHTTPServer):
    """Does what `script` says, one word per request, then answers well; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.asked: list[dict] = []
        self.lock = threading.Lock()
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            fault = self.server.script.pop(0) if self.server.script else "good"
        if fault == "hang":
            self.server.released.wait(10)
        elif fault == "drop":
            self.close_connection = True
        elif fault.isdecimal():
            self._send(int(fault), b"no", 2)
        elif fault == "half":
            self._send(200, GOOD[:10], len(GOOD))
            self.close_connection = True
        elif fault == "shape":
            self._send(200, b"[]", 2)
        elif fault == "good":
            self._send(200, GOOD, len(GOOD))

    def _send(self, status, body, length):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server, *requests, **settings):
    settings = {"first_wait": 0.001, "tries": 3, "time_limit": 5.0} | settings
    answers = {}
    backend = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", {"Authorization": "Bearer SECRET"}, **settings)
    assert "SECRET" not in repr(backend) + backend.identity
    backend.answer(requests, answers.__setitem__)
    return [answers[index] for index in range(len(requests))]


FAULTS = {"429": "http_429", "500": "http_500", "drop": "connection", "half": "connection", "shape": "protocol"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_asked_again_a_lasting_one_counted(server, fault):
    server.script = [fault] * 2
    (answer,) = ask(server, Request("t"))
    assert isinstance(answer, Reply)
    assert (answer.text, answer.tokens) == ("fine", 7)
    server.script = [fault] * 3
    (answer,) = ask(server, Request("t"))
    assert isinstance(answer, Failure)
    assert answer.cause == FAULTS[fault]
    assert len(server.asked) == 6


def test_a_refused_request_is_not_repeated(server):
    server.script = ["400"]
    (answer,) = ask(server, Request("t"))
    assert isinstance(answer, Failure)
    assert answer.cause == "http_400"
    assert len(server.asked) == 1


def test_a_silent_server_times_out(server):
    server.script = ["hang"]
    (answer,) = ask(server, Request("t"), tries=1, time_limit=0.1)
    assert answer == Failure("timeout")


def test_every_request_once_pictures_as_data_urls(server):
    answers = ask(server, *(Request(str(number), b"\x89PNG") for number in range(40)), concurrency=8)
    assert all(isinstance(answer, Reply) for answer in answers)
    contents = [body["messages"][0]["content"] for body in server.asked]
    assert sorted(int(content[1]["text"]) for content in contents) == list(range(40))
    assert {content[0]["image_url"]["url"] for content in contents} == {"data:image/png;base64,iVBORw=="}
