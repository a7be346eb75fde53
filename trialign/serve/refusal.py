"""Answers to requests that are refused: a status, and an error with value, rule and remedy."""

from __future__ import annotations

from trialign.errors import TrialignError
from trialign.foreign import harmless

_SHOWN = 200
"""Characters of a refused value that an answer repeats."""


class RefusedError(TrialignError):
    """A request that is not answered as asked.

    Args:
        status: HTTP status, 4xx or 503.
        value: what was sent.
        rule: what should have been sent.
        remedy: what to send instead.
        headers: further headers of the answer.
    """

    def __init__(
        self, status: int, value: str, *, rule: str, remedy: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(value, rule=rule, remedy=remedy)
        self.status = status
        self.headers = headers or {}


def error_body(error: TrialignError) -> dict[str, dict[str, str]]:
    """Return the body of an answer that refuses."""
    return {"error": {"value": shown(error.value), "rule": error.rule, "remedy": error.remedy}}


def shown(text: str) -> str:
    """Return text from a request as an answer repeats it: short, and harmless in a terminal."""
    text = harmless(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
