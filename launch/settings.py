"""`trialign VERB --help` and docs/configuration.md: every setting with its default and meaning, from the schemas."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from omegaconf import MISSING as MANDATORY

from trialign.config.registry import SCHEMAS
from trialign.config.stages import ALL_STAGES

_ALSO = {
    "recommend": ("recommend",),
    "evaluate": ("evaluate", "runtime"),
    "report": ("report",),
    "doctor": ("doctor",),
    "train": ("train", "stream", "runtime", "tracking"),
    "submit": ("cluster", "runtime"),
    "status": ("cluster",),
    "rl": ("rl", "stream", "runtime", "tracking"),
    "reward": ("reward", "runtime"),
}


def describe(verb: str) -> str:
    """Return the help of a verb: what it does, what it reads, its settings."""
    doc = (importlib.import_module(f"trialign.launch.{verb}").__doc__ or "").strip()
    spec = ALL_STAGES.get(verb)
    reads = f"reads: {', '.join(spec.inputs) or 'files'}\n" if spec else ""
    groups = _ALSO.get(verb) or (spec.groups if spec else tuple(_top_groups()))
    blocks = [doc, f"{reads}seed: {'seed=N changes the result' if spec and spec.seeded else 'no seed of its own'}"]
    for group in groups:
        for path, schemas in SCHEMAS.items():
            if path == group or path.startswith(group + "/"):
                blocks += [_block(path, name, schema) for name, schema in schemas.items()]
    return "\n\n".join(blocks)


def markdown() -> str:
    """Return docs/configuration.md."""
    parts = [
        "# Configuration",
        "Generated from the schemas in `trialign/config/` by `python -m trialign.launch.settings`; a test compares. "
        "Settings marked * cannot change the numbers and are not part of a stage's identity.",
        "Root settings: `run=DIR` (required), `seed=0`, `rebuild=false`, `from.STAGE=DIR`, `experiment=NAME`.",
    ]
    for path, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            rows = "\n".join(
                f"| `{key}`{mark} | `{default}` | {text} |" for key, mark, default, text in _rows(path, schema)
            )
            parts.append(
                f"## {path}={name}\n\n{_summary(schema)}\n\n| setting | default | meaning |\n|---|---|---|\n{rows}"
            )
    return "\n\n".join(parts) + "\n"


def _block(path: str, name: str, schema: type) -> str:
    lines = [f"{path}={name}: {_summary(schema)}" if len(SCHEMAS[path]) > 1 else f"{path}: {_summary(schema)}"]
    lines += [f"  {key + '=' + default:<52} {text}" for key, _, default, text in _rows(path, schema)]
    return "\n".join(lines)


def _rows(path: str, schema: type) -> Iterator[tuple[str, str, str, str]]:
    for found in fields(schema):
        key = f"{path.replace('/', '.')}.{found.name}"
        default: Any = found.default if found.default is not MISSING else None
        if default is None and found.default_factory is not MISSING:
            default = found.default_factory()
        if is_dataclass(default) and not isinstance(default, type):
            yield from _rows(key.replace(".", "/"), type(default))
        elif found.name != "_target_" and "help" in found.metadata:
            mark = "" if found.metadata["hashed"] else " *"
            yield key, mark, _shown(default), found.metadata["help"]


def _shown(default: Any) -> str:
    if default == MANDATORY:
        return "(required)"
    if isinstance(default, dict):
        return "{" + ", ".join(f"{key}: {value}" for key, value in default.items()) + "}"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _summary(schema: type) -> str:
    return (schema.__doc__ or "").strip().splitlines()[0]


def _top_groups() -> list[str]:
    return list(dict.fromkeys(path.split("/")[0] for path in SCHEMAS))


if __name__ == "__main__":
    print(markdown(), end="")
