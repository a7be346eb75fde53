"""Extract JSON from a chat model's reply, which may have a Markdown fence or text around it."""

from __future__ import annotations

import json
from typing import Any

from trialign.foreign import parse_json

_BRACKETS = frozenset("[]{}")


def bare_json(text: str) -> str:
    """Return the one JSON list or object of a reply, without the fence and the words around it.

    A bracket outside of the value makes a reply ambiguous: a second value, half a value, or one inside a broken one.
    An ambiguous reply, or one without a value, is returned unchanged, and `parse_json` refuses it.
    """
    start = min((place for bracket in "[{" if (place := text.find(bracket)) >= 0), default=-1)
    if start < 0:
        return text.strip()
    try:
        _, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, start)
    except (ValueError, RecursionError):
        return text.strip()
    around = text[:start] + text[end:]
    return text.strip() if _BRACKETS & set(around) else text[start:end]


def read_json(text: str) -> Any:
    """Parse the one JSON value of a reply.

    Raises:
        ValueError: no value, several values, nesting too deep, or a number that JSON does not allow (NaN, Infinity).
    """
    return parse_json(bare_json(text), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(constant)
