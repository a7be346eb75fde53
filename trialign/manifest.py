"""The record that makes a stage finished: `manifest.json`, written last and atomically.

A stage owns one folder of a run. As long as the folder holds no manifest, nothing in it counts: a stage that was killed
half-way is found by what is missing. The manifest says what made the folder (configuration, seed, inputs by hash, code
revision, versions) and what is in it (files by sha256, counts), so that a second run can skip it, and a changed one can
say what changed.

Two hashes carry the identity. `hash` covers the files a stage wrote; a later stage records it of every stage it read.
`lineage` carries those records on, so that two inputs made from different catalogues are noticed however far
downstream they meet.

Next to the hashes are the executions: settings that are no part of the identity but can change the numbers, and the
machine. They neither rebuild nor refuse; a comparison of runs shows where they differ.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypedDict, TypeVar

from trialign.errors import StageError
from trialign.files import FileRecord, SourceRecord, size_of
from trialign.foreign import Json, parse_json

Kind = TypeVar("Kind", int, float, str)

FORMAT = 2
MANIFEST = "manifest.json"
MACHINE = "machine.csv"
"""How fast a machine was: kept in a stage's folder, but no part of what the stage made."""
_VERSIONED = (
    "torch",
    "transformers",
    "pytorch-lightning",
    "deepspeed",
    "open-clip-torch",
    "duckdb",
    "pyarrow",
    "numpy",
)


class Execution(TypedDict):
    """How one process made a stage, next to what determines its numbers."""

    settings: dict[str, Json]
    machine: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """The record of a finished stage: its `manifest.json`, with the keys that docs/files.md lists.

    Examples:
        >>> manifest = trialign.Manifest.read("runs/quickstart/assign")
        >>> manifest.stage, manifest.counts["num_items"]
        ('assign', 64)
        >>> sorted(manifest.inputs)
        ['embed', 'prepare', 'quantize']
    """

    stage: str
    hash: str
    config: dict[str, Json]
    inputs: dict[str, dict[str, str]]
    lineage: dict[str, str]
    sources: dict[str, SourceRecord]
    counts: dict[str, Json]
    files: dict[str, FileRecord]
    seconds: float
    created: str
    revision: str
    versions: dict[str, str]
    format: int = FORMAT
    executions: list[Execution] = field(default_factory=list)
    """`{settings, machine}` of the process that finished the stage, last, and of killed ones that it continued from."""

    @staticmethod
    def read(folder: Path | str) -> Manifest:
        """Read the manifest of a finished stage.

        Raises:
            StageError: the folder holds no manifest (never finished), or one of an unknown format.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            verb = folder.parent.name if folder.parent.name == "evaluate" else folder.name
            raise StageError(
                f"{folder} is not a finished stage",
                rule=f"a finished stage holds {MANIFEST}, written last",
                remedy=f"run `trialign {verb}` for that run first, or name another with from.{verb}=DIR",
            )
        try:
            record = parse_json(path.read_text())
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}")
            return Manifest(**record)
        except (ValueError, KeyError, TypeError) as cause:
            raise StageError(
                f"{path} cannot be read: {cause}",
                rule=f"a manifest is JSON of format {FORMAT}",
                remedy="delete that stage's folder and run it again",
            ) from cause

    def setting(self, key: str, kind: type[Kind]) -> Kind:
        """Return a setting that the stage was made with, e.g. `manifest.setting("data.max_history", int)`.

        Raises:
            StageError: it has none of this name and type.
        """
        found = flatten(self.config).get(key)
        if not isinstance(found, kind):
            raise StageError(
                f"the manifest of {self.stage} has {key}={found!r}",
                rule=f"a stage is made with {key}, of type {kind.__name__}",
                remedy=f"make it again by this version: `trialign {self.stage}` with rebuild=true",
            )
        return found

    def not_whole(self, folder: Path) -> list[str]:
        """Return the files of the manifest that are missing or have another size, in words."""
        sizes = {name: record["bytes"] for name, record in self.files.items() if Path(name).name != MACHINE}
        found = {name: size_of(folder / name) for name in sizes}
        return [
            name if size is None else f"{name} ({size:,} of {sizes[name]:,} bytes)"
            for name, size in found.items()
            if size != sizes[name]
        ]


def merge_lineages(name: str, inputs: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return the hash of every stage that a stage descends from, by verb.

    Args:
        name: the stage's verb.
        inputs: the folders of the stages it reads, by verb.
        manifests: their manifests, by verb.

    Raises:
        StageError: two inputs descend from different versions of one stage.
    """
    merged: dict[str, str] = {}
    told_by: dict[str, str] = {}

    def place(verb: str, ancestor: str) -> str:
        folder = inputs[verb] if verb == ancestor else manifests[verb].inputs.get(ancestor, {}).get("path", "another")
        return f"{verb} is {folder}" if verb == ancestor else f"{inputs[verb]} was made from {folder}"

    for verb, found in manifests.items():
        for ancestor, digest in {**found.lineage, verb: found.hash}.items():
            if merged.setdefault(ancestor, digest) != digest:
                other = told_by[ancestor]
                raise StageError(
                    f"{name} would mix two different '{ancestor}' stages: {place(other, ancestor)} "
                    f"({merged[ancestor][:12]}), {place(verb, ancestor)} ({digest[:12]})",
                    rule="all inputs of a stage descend from the same catalogue and semantic IDs",
                    remedy=f"point from.{other} and from.{verb} at stages of one lineage; for newer data make what "
                    f"comes after {ancestor} again in a new run: assign.extend=OLD keeps the IDs of known items",
                )
            told_by.setdefault(ancestor, verb)
    return merged


def trace(stage: Path, manifest: Manifest, run: Path) -> tuple[dict[str, tuple[Path, Manifest]], list[str]]:
    """Return folder and manifest of a stage and of every stage that it descends from, by verb, and verbs not found.

    Args:
        stage: the stage's folder.
        manifest: of the stage.
        run: where an ancestor is looked for first: a run directory that was moved as a whole keeps its stages next to
            each other. Then where the manifest says. One that was made again since is another stage, and not found.
    """
    lost: list[str] = []
    made: dict[str, tuple[Path, Manifest]] = {}
    todo = [(manifest.stage, stage, manifest)]
    while todo:
        verb, place, found = todo.pop()
        made[verb] = (place, found)
        for parent, reference in found.inputs.items():
            known = [path for path in (run / parent, Path(reference["path"])) if (path / MANIFEST).exists()]
            manifests = [(path, Manifest.read(path)) for path in known]
            same = [(path, other) for path, other in manifests if other.hash == reference["hash"]]
            if same and parent not in made:
                todo.append((parent, *same[0]))
            elif not same and parent not in lost:
                lost.append(parent)
    return made, sorted(set(lost) - made.keys())


def flatten(tree: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Return a nested mapping as one of dotted keys, e.g. `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Json] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[tuple[str, Json, Json]]:
    """Return (key, old value, new value) of the keys whose values differ, sorted by key."""
    missing = "(absent)"
    pairs = ((key, old.get(key, missing), new.get(key, missing)) for key in sorted(old.keys() | new.keys()))
    return [(key, before, after) for key, before, after in pairs if before != after]


def changes_of(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    """Return the settings that differ, one phrase each: `train.steps 6 -> 8`."""
    pairs = differences(flatten(old), flatten(new))
    return [f"{key} {json.dumps(before)} -> {json.dumps(after)}" for key, before, after in pairs]


@cache
def code_revision() -> str:
    """Return the git revision of the running code, `-dirty` if it was edited, or `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    ask = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that compute, by name."""
    found = {name: version_of(name) for name in ("trialign", *_VERSIONED)}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
