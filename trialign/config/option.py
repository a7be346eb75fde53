"""How a field of a config schema is declared: its default, one line of help, and whether it can change the numbers."""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any


def option(default: Any, help: str, *, hashed: bool = True, recorded: bool = False, open_keys: bool = False) -> Any:
    """Declare a config field.

    Args:
        default: its default; a list or a dict is copied for each instance.
        help: one line for docs/configuration.md, units included.
        hashed: whether it belongs to a stage's identity. False for where and how fast a stage runs (paths, workers,
            devices, logging): changing it neither rebuilds nor refuses a finished stage.
        recorded: of one that is not hashed: it can change the numbers all the same (how sums are rounded, what is left
            out), and stands in the manifest beside the hash.
        open_keys: of a mapping: any key may be set, as `group.field.KEY=value`, not only those of its default.
    """
    metadata = {"help": help, "hashed": hashed, "recorded": recorded, "open_keys": open_keys}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def unhashed(schema: type) -> set[str]:
    """Return the names of a schema's fields that stay out of a stage's identity."""
    return {found.name for found in fields(schema) if not is_hashed(found)}


def recorded(schema: type) -> set[str]:
    """Return the names of those among them that can change the numbers all the same."""
    return {found.name for found in fields(schema) if found.metadata.get("recorded", False)}


def is_hashed(found: Field[Any]) -> bool:
    """Return whether a field belongs to a stage's identity."""
    return bool(found.metadata.get("hashed", True))
