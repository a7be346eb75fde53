"""`trialign VERB --help` and docs/configuration.md: every setting with its type, bounds, default and meaning.

Settings and meanings come from the schemas; defaults are those that a verb composes with the files of conf/.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

from omegaconf import MISSING as MANDATORY
from trialign.launch.cli import script

from trialign.config.compose import choice_of, composed, default_choices
from trialign.config.option import Bounds, bounds_of, default_of
from trialign.config.registry import SCHEMAS, FromConfig, RootConfig
from trialign.config.verbs import HASHED, STAGES, VERBS, StageSpec, Verb
from trialign.foreign import Json

_Row = tuple[str, str, str, str, str]
"""Setting, mark, type, default, meaning."""


def describe(verb: str) -> str:
    """Return the help of a verb: what it does, what it reads, its settings."""
    doc = (sys.modules[script(verb).__module__].__doc__ or "").strip()
    blocks, groups = [doc], VERBS[verb].reads
    if (stage := STAGES.get(verb)) is not None:
        blocks.append(f"reads: {_inputs(stage)}")
        groups = (*stage.groups, *groups)
    blocks.append("\n".join([f"run: {_summary(RootConfig)}", *map(_line, _root_rows(VERBS[verb]))]))
    for group in groups:
        for path, schemas in SCHEMAS.items():
            if path == group or path.startswith(group + "/"):
                blocks += [_block(path, choice_of(path, name), schema) for name, schema in schemas.items()]
    return "\n\n".join(blocks)


def _root_rows(verb: Verb) -> list[_Row]:
    """Return the settings of the run that a verb reads, and the stages that it can read of another run."""
    rows = list(_rows("", RootConfig, verb.root))
    stages = list(_rows("from", FromConfig, {}))
    if isinstance(verb, StageSpec):
        inputs = {f"from.{name}" for name in (*verb.inputs, *verb.inputs_if)}
        return [row for row in rows if row[0] != "seed" or verb.seeded] + [row for row in stages if row[0] in inputs]
    return [*rows, *stages] if verb.resumes else rows[:1]


def _inputs(stage: StageSpec) -> str:
    """Return the stages that a stage reads; in brackets those that it reads only with certain settings."""
    return ", ".join([*stage.inputs, *(f"[{name}]" for name in stage.inputs_if)]) or "files"


def markdown() -> str:
    """Return docs/configuration.md."""
    parts = [
        "# Configuration",
        "Generated from the schemas in `trialign/config/` by `python -m trialign.launch.settings`; a test compares. "
        "Defaults are those of the option that a heading names (a schema, or a file of conf/), "
        "before `experiment=` and the command line. "
        "Settings marked * or + are not part of a stage's identity. Those marked * cannot change the numbers. Those "
        "marked + can (how sums are rounded, what is left out) and are in the manifest next to the hash.",
        "`experiment=NAME` takes the settings of a file of conf/experiment/.",
        "## Verbs",
        "Stages in the order they run; in brackets what a stage reads only where its settings ask for it. A pipeline "
        "runs an optional stage only where another one reads what it makes.",
        "| verb | what it does | reads | its numbers are determined by |\n|---|---|---|---|\n"
        + "\n".join(_verb_row(name, verb) for name, verb in VERBS.items()),
    ]
    parts.append(_section("run", RootConfig, [*_rows("", RootConfig, {}), *_rows("from", FromConfig, {})]))
    for path, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            choice = choice_of(path, name)
            parts.append(_section(f"{path}={choice}", schema, _rows(path, schema, composed(path, choice))))
    return "\n\n".join(parts) + "\n"


def _section(heading: str, schema: type, rows: Iterable[_Row]) -> str:
    lines = "\n".join(f"| `{key}`{mark} | {kind} | `{default}` | {text} |" for key, mark, kind, default, text in rows)
    return f"## {heading}\n\n{_summary(schema)}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n{lines}"


def _verb_row(name: str, verb: Verb) -> str:
    if not isinstance(verb, StageSpec):
        return f"| `{name}` | {verb.help} | | |"
    hashed = [f"`{group}`" for group in verb.groups] + ["`seed`"] * verb.seeded
    optional = " (optional)" if verb.optional else ""
    return f"| `{name}`{optional} | {verb.help} | {_inputs(verb)} | {', '.join(hashed)} |"


def _block(path: str, choice: str, schema: type) -> str:
    lines = [f"{path}={choice}: {_summary(schema)}" if len(SCHEMAS[path]) > 1 else f"{path}: {_summary(schema)}"]
    return "\n".join([*lines, *map(_line, _rows(path, schema, composed(path, choice)))])


def _line(row: _Row) -> str:
    key, _, kind, default, text = row
    return f"  {key + '=' + default:<52} {text}" + (f" [{kind}]" if kind else "")


def _rows(path: str, schema: type, values: Mapping[str, Json]) -> Iterator[_Row]:
    """Yield the settings of a schema whose fields are composed to these values; of the root if `path` is empty."""
    hints = typing.get_type_hints(schema)
    for found in fields(schema):
        key = f"{path.replace('/', '.')}.{found.name}".lstrip(".")
        default = default_of(found)
        value, group = values.get(found.name, default), f"{path}/{found.name}"
        if is_dataclass(default) and isinstance(value, Mapping) and group not in SCHEMAS:
            yield from _rows(key.replace(".", "/"), type(default), value)
        elif found.name != "_target_" and "help" in found.metadata:
            hashed = found.metadata["hashed"] and path.split("/")[0] in ("", "from", *HASHED)
            mark = "" if hashed else " +" if found.metadata["recorded"] else " *"
            shown = default_choices()[group] if group in SCHEMAS else _shown(value)
            yield key, mark, _type(hints[found.name], bounds_of(found)), shown, found.metadata["help"]


def _type(hint: Any, bounds: Bounds) -> str:
    """Return a type with its bounds, e.g. `0 <= float < 1`, or the choices; nothing of a group and of several types."""
    parts = typing.get_args(hint)
    if NoneType in parts:
        inner = _type(parts[0], bounds)
        return inner and f"{inner} or null"
    if typing.get_origin(hint) is list:
        return f"list of {_type(parts[0], bounds)}"
    return bounds.around(hint.__name__) if hint in (bool, int, float, str) else ""


def _shown(default: Any) -> str:
    if default == MANDATORY:
        return "(required)"
    if isinstance(default, dict):
        return "{" + ", ".join(f"{key}: {value}" for key, value in default.items()) + "}"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _summary(schema: type) -> str:
    return (schema.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    print(markdown(), end="")
