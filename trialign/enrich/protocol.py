"""What every backend of captions and interests answers to: a request in, a reply or a failure with its cause out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One question: a text, and the encoded picture (JPEG or PNG) it is about, if any."""

    text: str
    image: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """What came back, with what it cost in tokens (prompt and reply) and in seconds."""

    text: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why nothing usable came back: `cause` is counted (`timeout`, `http_500`), `detail` is for a reader."""

    cause: str
    detail: str = ""


class Backend(Protocol):
    """A source of replies."""

    @property
    def identity(self) -> str:
        """Model and decoding settings: whatever, changed, may change a reply."""

    def answer(self, requests: Sequence[Request], keep: Callable[[int, Reply | Failure], None]) -> None:
        """Call `keep` once per request with its index, as soon as its answer is there, in any order."""
