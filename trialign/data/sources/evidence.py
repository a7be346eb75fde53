"""Convert the fields of items in a file to texts and categories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import NoReturn, TypeAlias
from uuid import UUID

import pyarrow as pa

from trialign.errors import DataError

_Single: TypeAlias = bool | int | float | str | Decimal | date | time | UUID | None
Value: TypeAlias = "_Single | tuple[Value, ...] | list[Value] | dict[str, Value]"
"""What a file of any format may hold in a field."""

Row = Mapping[str, Value]
"""One row of a file by column, or one JSON object."""

TEXTS = ("title", "description", "brand")
_EXACT = 2**53
"""Below it a float tells every whole number from the next."""


def items_table(records: Iterable[Row], path: Path, *, separator: str = ",", also: Sequence[str] = ()) -> pa.Table:
    """Return a catalogue as `RawData.items` wants it.

    Args:
        records: one per item: `item`, a text or an integer, and any of `title`, `description`, `brand` (text, null, or
            a tuple of them, joined line by line) and `categories` (a joined text, a list, nested or not, or null); a
            number or a date is the text that a person reads; what is absent is empty.
        path: the file, for errors.
        separator: what joins the categories in a text.
        also: further columns of text.

    Raises:
        DataError: a value is of another kind, or no Unicode.
    """
    names = (*TEXTS, *also)
    columns: dict[str, list[str | None]] = {name: [] for name in ("item", *names)}
    categories: list[list[str]] = []
    for record in records:
        item = key_of(record["item"], path)
        columns["item"].append(item)
        for name in names:
            columns[name].append(_text(record.get(name), path, item, name))
        categories.append(_categories(record.get("categories"), path, item, separator))
    with unicode_of(path):
        texts = {name: pa.array(columns[name], pa.string()) for name in ("item", *names)}
        return pa.table(texts | {"categories": pa.array(categories, pa.list_(pa.string()))})


@contextmanager
def unicode_of(path: Path) -> Iterator[None]:
    """Name the file in the error for text that cannot be encoded: JSON can escape half of a surrogate pair.

    Raises:
        DataError: text of the file is no Unicode.
    """
    try:
        yield
    except UnicodeEncodeError as cause:
        raise DataError(
            f"{path} holds text that is not Unicode: {cause}", rule="text is Unicode", remedy="repair the file"
        ) from cause


def key_of(value: Value, path: Path) -> str | None:
    """Return an item's key as text; null stays null.

    Raises:
        DataError: it is neither text nor an integer.
    """
    if value is None or type(value) is str:
        return value
    # Databases write whole numbers as decimals without a fraction.
    if type(value) is int or (isinstance(value, Decimal) and value.as_tuple().exponent == 0):
        return str(value)
    return refuse(path, "an item's key", value, "keys are text or integers")


def refuse(path: Path, where: str, value: Value, rule: str) -> NoReturn:
    """Refuse a value of the wrong kind.

    Raises:
        DataError: always.
    """
    try:
        shown = json.dumps(value, default=str)[:80]
    except RecursionError:
        shown = "values nested too deeply to be shown"
    raise DataError(f"{path}: {where} holds {shown}", rule=rule, remedy="repair the file")


def _text(value: Value, path: Path, item: str | None, name: str) -> str:
    # A table of another library writes a missing text as a float that is not a number.
    if value is None or value != value:
        return ""
    if isinstance(value, tuple):
        return "\n".join(text for text in (_text(part, path, item, name) for part in value) if text)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        # A column of whole numbers becomes one of floats where a value is missing.
        return str(int(value))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if not isinstance(value, int | float | date | time | UUID):
        refuse(path, f"{name} of item '{item}'", value, "text, a number, a date, true or false, or null")
    return str(value)


def _categories(value: Value, path: Path, item: str | None, separator: str) -> list[str]:
    """Flatten category paths into one list without repetitions, in order of appearance."""
    if value is None:
        return []
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(separator)]
        return list(dict.fromkeys(part for part in parts if part))
    if not isinstance(value, list):
        text = _text(value, path, item, "categories")
        return [text] if text else []
    flat: list[str] = []
    todo = value[::-1]
    while todo:  # a file may nest them as deeply as its parser goes
        part = todo.pop()
        if isinstance(part, list):
            todo.extend(reversed(part))
        else:
            flat.append(_text(part, path, item, "categories"))
    return list(dict.fromkeys(part for part in flat if part))
