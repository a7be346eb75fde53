"""The interface of annotation backends: requests in; for each, a reply or a failure with its cause out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Request:
    """One question: a text, and the encoded picture (JPEG or PNG) it is about, if any."""

    text: str
    image: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """A model's reply, its cost in tokens (prompt and reply) and seconds, and whether it was cut at the token limit."""

    text: str
    tokens: int
    seconds: float
    cut: bool = False


@dataclass(frozen=True)
class Failure:
    """The cause of an unusable or missing reply: `cause` is counted (`timeout`, `http_500`), `detail` is for people."""

    cause: str
    detail: str = ""


Requests = Iterator[tuple[str, Request]]
"""Requests with what each is called; taken one at a time, as a backend has room for them."""


@runtime_checkable
class Backend(Protocol):
    """A model that answers requests."""

    @property
    def source(self) -> str:
        """Return the name for the table's column `source`."""

    @property
    def identity(self) -> str:
        """Return the model and decoding settings: everything that may affect a reply, for the cache key."""

    def answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        """Answer all requests; call `keep` once for each, with its name, when its answer arrives, in any order."""
