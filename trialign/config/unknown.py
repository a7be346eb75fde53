"""Suggest the nearest existing setting for a mistyped one: in the chosen options, else in others."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

import trialign
from trialign.config.registry import BASE, SCHEMAS, FromConfig
from trialign.errors import ConfigError, listing
from trialign.foreign import Json
from trialign.manifest import flatten

_ROOT = ("run", "seed", "rebuild")
_SHORTHANDS = ("experiment", "experiment/variant")
"""Files of settings that are named at the root and leave no key behind."""
_ALIKE = 0.6
_TASKS = Path(trialign.__file__).parent / "generate" / "tasks"


def unknown_setting(key: str, kind: type | None, folder: Path) -> ConfigError:
    """Return the error for a setting that does not exist.

    Args:
        key: as it was typed, with dots, or slashes where a choice was named.
        kind: the schema that lacks it, where there is one; it tells which choice was made.
        folder: of the YAML files, which are the choices.
    """
    value, rule = f"unknown setting '{key}'", "settings exist in a schema"
    if "/" in key:
        near = _nearest(key, [*(path for path in SCHEMAS if "/" in path), *_SHORTHANDS])
        return ConfigError(
            value,
            rule="a choice names a group of settings and one of its options",
            remedy=_meant([near] if near else [], SCHEMAS),
        )
    task = key.removeprefix("train.tasks.")
    if task != key and (_TASKS / f"{task}.py").is_file():
        return ConfigError(
            f"the task {task} has no weight: TasksConfig has no field {task}",
            rule="a task is a file of trialign/generate/tasks/ and a field of TasksConfig",
            remedy="add the field, and its line of `weights`, to TasksConfig in trialign/config/train.py",
        )
    chosen = next((path for path, schemas in SCHEMAS.items() if kind in schemas.values()), None)
    here = known_keys() if chosen is None else known_keys(chosen, kind)
    if key in known_keys():
        path = max((path for path in SCHEMAS if key.startswith(path.replace("/", ".") + ".")), key=len)
        return ConfigError(
            f"{key} is no setting of the {path} that is chosen",
            rule="each choice has settings of its own",
            remedy=f"leave {key} out, or choose {_choices_with(folder, path, key)}",
        )
    near = _nearest(key, [*here, *(_SHORTHANDS if "." not in key else ())])
    if near is None and chosen is not None and (near := _nearest(key, known_keys())):
        others = _choices_with(folder, chosen, near)
        return ConfigError(value, rule=rule, remedy=f"did you mean '{near}', a setting of {others}?")
    if near is not None:
        return ConfigError(value, rule=rule, remedy=_meant([near], here))
    last = key.rpartition(".")[2]
    ends = [known for known in [*here, *_SHORTHANDS] if known != key and re.split("[./]", known)[-1] == last]
    return ConfigError(value, rule=rule, remedy=_meant(ends, _around(key, here)))


def known_keys(path: str | None = None, kind: type | None = None) -> dict[str, Json]:
    """Return every dotted key of every schema with its default; for the group `path`, only of the schema `kind`."""
    keys: dict[str, Json] = {"run": None, "seed": 0, "rebuild": False}
    keys |= {f"from.{field.name}": None for field in dataclasses.fields(FromConfig)}
    for group, schemas in SCHEMAS.items():
        for schema in schemas.values():
            if group != path or schema is kind:
                keys |= _keys_of(group, schema)
    return keys


def typed_remedy(key: str) -> str:
    """Return the remedy that describes the values of a setting: its type and its default."""
    for group, schemas in SCHEMAS.items():
        for schema in schemas.values():
            if key in _keys_of(group, schema):
                kind = _type_of(schema, key.removeprefix(group.replace("/", ".") + ".").split("."))
                return f"{key} is {_words(kind).replace('KEY', key)}; its default is {_keys_of(group, schema)[key]!r}"
    return f"{key} is {_words(type(known_keys().get(key)))}" if known_keys().get(key) is not None else f"fix {key}"


def _choices_with(folder: Path, path: str, key: str) -> str:
    """Return the options of a group that have a setting: schemas before the files of conf/ that build on them."""
    having = [name for name, schema in SCHEMAS[path].items() if key in _keys_of(path, schema)]
    files = {file.stem: yaml.safe_load(file.read_text()) or {} for file in sorted((folder / path).glob("*.yaml"))}
    bases = {name: [str(entry) for entry in content.get("defaults", [])] for name, content in files.items()}

    def has(name: str) -> bool:
        return any(base in having or (base in bases and has(base)) for base in bases[name])

    found = [name for name in having if name != BASE] + sorted(filter(has, bases))
    return " or ".join(f"{path}={name}" for name in found[:3])


@cache
def _keys_of(group: str, schema: type) -> dict[str, Json]:
    tree = OmegaConf.to_container(OmegaConf.structured(schema), resolve=False)
    assert isinstance(tree, dict)
    return flatten({str(k): v for k, v in tree.items()}, group.replace("/", ".") + ".")


def _nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the known key most similar to `key` in its worst segment: a long common prefix hides no wrong end."""
    wanted = key.replace("/", ".").split(".")

    def likeness(other: str) -> float:
        parts = other.replace("/", ".").split(".")
        if len(parts) != len(wanted) or other == key:
            return 0.0
        return min(difflib.SequenceMatcher(None, a, b).ratio() for a, b in zip(wanted, parts, strict=True))

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= _ALIKE else None


def _around(key: str, known: Iterable[str]) -> list[str]:
    """Return the names one level below the longest prefix of `key` that exists."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        start = ".".join(parts[:length]) + "."
        if found := {start + other.removeprefix(start).split(".")[0] for other in known if other.startswith(start)}:
            return sorted(found - {start + "_target_"})
    return sorted({*_ROOT, "from", *_SHORTHANDS, *(path.split("/")[0] for path in SCHEMAS)})


def _meant(near: list[str], known: Iterable[str]) -> str:
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near[:4])}?"
    return listing(known)


def _type_of(schema: type, parts: list[str]) -> Any:
    kind: Any = schema
    for part in parts:
        if not dataclasses.is_dataclass(kind):
            return Any
        kind = typing.get_type_hints(kind)[part]
    return kind


def _words(kind: Any) -> str:
    plain = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    if kind in plain:
        return plain[kind]
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is list:
        return "a list, 'KEY=[A,B]'"
    if typing.get_origin(kind) is dict:
        return "a mapping, 'KEY={A: 1}'"
    if len(inner) < len(typing.get_args(kind)):
        return f"{' or '.join(map(_words, inner))}, or null"
    return "a value of its own kind"
