"""Check every value of a composed config against the bounds and choices that its field declares."""

from __future__ import annotations

import math
from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from trialign.config.option import Bounds, bounds_of, default_of
from trialign.config.registry import BASES, SCHEMAS
from trialign.errors import ConfigError, listing, suggest


def check_bounds(node: DictConfig, path: str = "") -> None:
    """Refuse a value outside the bounds or choices of its field.

    Args:
        node: settings as composed: all of them, or those of one group.
        path: of the group, e.g. `embed/text`; empty for all.

    Raises:
        ConfigError: the first such value.
    """
    schema = _schema_of(node, path)
    declared = {found.name: found for found in fields(schema)} if schema else {}
    for key in map(str, node):
        if OmegaConf.is_missing(node, key) or node[key] is None:
            continue
        value, below = node[key], f"{path}/{key}".lstrip("/")
        if isinstance(value, DictConfig):
            check_bounds(value, below)
            continue
        bounds = bounds_of(declared[key]) if key in declared else Bounds()
        for one in value if isinstance(value, ListConfig) else [value]:
            if not bounds.take(one):
                raise _refusal(below.replace("/", "."), value, one, bounds, declared.get(key))


def _schema_of(node: DictConfig, path: str) -> type | None:
    """Return the schema of a node: the node's type, else the schema of its `_target_`, else the base of the group."""
    kind = OmegaConf.get_type(node)
    if kind is not None and is_dataclass(kind):
        return kind
    target = node.get("_target_")
    schemas = [schema for schema in SCHEMAS.get(path, {}).values() if hasattr(schema, "_target_")]
    return next((schema for schema in schemas if schema._target_ == target), BASES.get(path))


def _refusal(key: str, value: Any, one: Any, bounds: Bounds, declared: Field[Any] | None) -> ConfigError:
    """Return the error for a value, or for one value of a list."""
    many = isinstance(value, ListConfig)
    told, subject = (f"{key} holds {one}", "every value") if many else (f"{key}={one}", key)
    if bounds.choices:
        known = list(map(str, bounds.choices))
        remedy = suggest(one, known) if isinstance(one, str) else listing(known)
        return ConfigError(told, rule=f"{subject} is a known choice", remedy=remedy)
    rule = f"{subject} is {bounds if math.isfinite(one) else 'a finite number'}"
    if not many and bounds.least is not None and one < bounds.least:
        return ConfigError(told, rule=rule, remedy=f"set {key}={bounds.least:g} or more")
    if not many and bounds.most is not None and one > bounds.most:
        return ConfigError(told, rule=rule, remedy=f"set {key}={bounds.most:g} or less")
    return ConfigError(told, rule=rule, remedy=_back(key, declared))


def _back(key: str, declared: Field[Any] | None) -> str:
    """Return the remedy that restores a field's default."""
    if declared is None:
        return f"leave {key} out"
    default = default_of(declared)
    if isinstance(default, list):
        return f"set '{key}=[{','.join(map(str, default))}]'"
    return f"set {key}={'null' if default is None else default}"
