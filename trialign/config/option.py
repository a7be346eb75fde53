"""How a field of a config schema is declared: default, help, bounds, and whether it can change the numbers."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """The bounds and choices of a field's value; for a list, those of each of its values.

    Args:
        least: the smallest number that it takes.
        above: an exclusive lower bound.
        most: the largest number that it takes.
        below: an exclusive upper bound.
        choices: all values that it takes.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str | int, ...] = ()

    def take(self, value: object) -> bool:
        """Return whether a value is within the bounds; NaN and infinities never are."""
        if self.choices and value not in self.choices:
            return False
        if not isinstance(value, (int, float)):
            return True
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the bounds in words, as the end of a sentence."""
        limits = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)

    def around(self, kind: str) -> str:
        """Return a type with its bounds, e.g. `0 <= float < 1`, or the choices."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        low = f">= {self.least:g}" if self.least is not None else f"> {self.above:g}" if self.above is not None else ""
        high = f"<= {self.most:g}" if self.most is not None else f"< {self.below:g}" if self.below is not None else ""
        if low and high:
            sign, limit = low.split()
            return f"{limit} {sign.replace('>', '<')} {kind} {high}"
        return f"{kind} {low or high}".rstrip()


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: tuple[str | int, ...] = (),
    hashed: bool = True,
    recorded: bool = False,
    open_keys: bool = False,
) -> Any:
    """Declare a config field.

    Args:
        default: its default; a list or a dict is copied for each instance, of a dataclass each gets its own.
        help: one line for docs/configuration.md, units included.
        least: the smallest number that it takes. None passes every bound where the type has it.
        above: an exclusive lower bound.
        most: the largest number that it takes.
        below: an exclusive upper bound.
        choices: all values that it takes.
        hashed: whether it belongs to a stage's identity. False for where and how fast a stage runs (paths, workers,
            devices, logging): changing it neither rebuilds nor refuses a finished stage. Of a group that no stage
            hashes (`HASHED` in verbs.py) no setting does.
        recorded: not hashed either, but it can still change the numbers (how sums are rounded, what is left out): the
            manifest has it next to the hash.
        open_keys: of a mapping: any key may be set, as `group.field.KEY=value`, not only those of its default.
    """
    bounds = Bounds(least, above, most, below, choices)
    identity = {"hashed": hashed and not recorded, "recorded": recorded}
    metadata = {"help": help, "bounds": bounds, "open_keys": open_keys, **identity}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def bounds_of(found: Field[Any]) -> Bounds:
    """Return the bounds and choices of a field."""
    bounds: Bounds = found.metadata.get("bounds", Bounds())
    return bounds


def default_of(found: Field[Any]) -> Any:
    """Return a field's default; MISSING where it has none."""
    return found.default if found.default_factory is MISSING else found.default_factory()


def unhashed(schema: type) -> set[str]:
    """Return the names of a schema's fields that stay out of a stage's identity."""
    return {found.name for found in fields(schema) if not found.metadata.get("hashed", True)}


def recorded(schema: type) -> set[str]:
    """Return the names of a schema's unhashed fields that can still change the numbers."""
    return {found.name for found in fields(schema) if found.metadata.get("recorded", False)}
