"""What every model that is asked answers to: requests in, a reply or a failure with its cause out."""

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
    """What came back, what it cost in tokens (prompt and reply) and in seconds, and whether it ends before its end."""

    text: str
    tokens: int
    seconds: float
    cut: bool = False


@dataclass(frozen=True)
class Failure:
    """Why nothing usable came back: `cause` is counted (`timeout`, `http_500`), `detail` is for a reader."""

    cause: str
    detail: str = ""


Requests = Iterator[tuple[str, Request]]
"""Requests with what each is called; taken one at a time, as a backend has room for them."""


@runtime_checkable
class Backend(Protocol):
    """A model that is asked."""

    @property
    def source(self) -> str:
        """Return what the column `source` says."""

    @property
    def identity(self) -> str:
        """Return model and decoding settings: whatever, changed, may change a reply."""

    def answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        """Call `keep` once per request with its name, as soon as its answer is there, in any order."""
