"""Records: frozen dataclasses that a stage writes as a JSON file, and that other code reads back.

A field is a key of the file, in the same order; `_at_` of its name is written `@`, so that `recall_at_10` is
`recall@10`. A field that is None by default is left out where it is None. The fields of an `INLINE` field, a record
itself, are among those around it.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from trialign.errors import StageError
from trialign.files import write_atomically
from trialign.foreign import Json, parse_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    R = TypeVar("R", bound=DataclassInstance)

INLINE = MappingProxyType({"inline": True})
"""Metadata of a field whose own fields are one level up."""

_JSON: dict[type, type | tuple[type, ...]] = {float: (float, int), tuple: list}
"""How values of a type are in JSON, where that is another type."""


def to_json(value: Any) -> Any:
    """Return a record, or a list or mapping of records, as JSON values."""
    if is_dataclass(value):
        tree: dict[str, Json] = {}
        for own in fields(value):
            found = getattr(value, own.name)
            if found is None and own.default is None:
                continue
            tree |= to_json(found) if own.metadata.get("inline") else {_key(own.name): to_json(found)}
        return tree
    if isinstance(value, dict):
        return {key: to_json(found) for key, found in value.items()}
    return [to_json(found) for found in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[R], tree: Any) -> R:
    """Return the record of a dataclass that `to_json` gave as `tree`.

    Raises:
        ValueError: a key is missing or unknown, or a value is of another type.
    """
    return cast("R", _read(kind, tree, ""))


def write_record(path: Path, record: DataclassInstance) -> None:
    """Write a record as a JSON file."""
    write_atomically(path, json.dumps(to_json(record), indent=2) + "\n")


def read_record(kind: type[R], path: Path) -> R:
    """Read what `write_record` wrote.

    Raises:
        StageError: it is not a record of this kind.
    """
    try:
        return from_json(kind, parse_json(path.read_text()))
    except (OSError, ValueError) as cause:
        raise StageError(
            f"{path} cannot be read: {cause}",
            rule=f"{path.name} has the keys that this version of trialign writes",
            remedy="run that stage again with rebuild=true",
        ) from cause


def _key(name: str) -> str:
    return name.replace("_at_", "@")


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value as a value of a type; `where` names it in errors."""
    for one in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        base, inner = get_origin(one) or one, get_args(one)
        if is_dataclass(one) and isinstance(value, dict):
            left = dict(value)
            record = _take(one, left, where)
            if left:
                raise ValueError(f"unknown key {where}{next(iter(left))}")
            return record
        if not isinstance(value, _JSON.get(base, base)):
            continue
        if base is dict:
            return {key: _read(inner[1], found, f"{where}{key}.") for key, found in value.items()}
        if base is list:
            return [_read(inner[0], found, where) for found in value]
        return tuple(value) if base is tuple else value
    raise ValueError(f"{where.removesuffix('.') or 'the record'} is {json.dumps(value)[:40]}")


def _take(kind: Any, left: dict[str, Json], where: str) -> Any:
    """Return a record, and take its keys out of what is `left`."""
    hints, values = get_type_hints(kind), {}
    for own in fields(kind):
        key = _key(own.name)
        if own.metadata.get("inline"):
            values[own.name] = _take(hints[own.name], left, where)
        elif key in left:
            values[own.name] = _read(hints[own.name], left.pop(key), f"{where}{key}.")
        elif own.default is MISSING:
            raise ValueError(f"key {where}{key} is missing")
    return kind(**values)
