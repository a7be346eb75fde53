"""JSON as instruct models send it: in a fence of Markdown, with a word before or after it."""

from __future__ import annotations

import json
from typing import Any

from trialign.foreign import parse_json

_BRACKETS = frozenset("[]{}")


def bare_json(text: str) -> str:
    """Return the one JSON list or object of a reply, without the fence and the words around it.

    What is around it may hold no bracket: a second value, half a value or a value inside of a broken one is ambiguous.
    Then, and where there is no value at all, the reply comes back as it is, which `parse_json` refuses.
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
    """Return what the one JSON value of a reply says.

    Raises:
        ValueError: there is none, or not just one; it is nested too deeply; or a number is none of JSON's.
    """
    return parse_json(bare_json(text), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(constant)
