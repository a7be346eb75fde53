"""Reuse the settings of an existing run: `trialign train run=DIR` after a pipeline takes them from its manifests.

A manifest says what its stage was made with: the hashed values of its groups, the seed where it is seeded (`config`),
and next to them unhashed settings that can still change the numbers (`executions`). The record of a killed attempt
says the same, so that the same training continues. They make a config `hydra/taken`, which every verb composes
after the options of groups and before the experiment: the command line and the files that it names (choices,
experiment, variant) come first, then the run, then the defaults. Every composition includes it: a verb, each
member of a sweep, `submit`, `--cfg job`.

Which stages: the verb's own and those upstream of it, of this run or of the one that `from.STAGE` names. The verb's own
decides what stages share (seed, stream, runtime.micro_batch_size), else the last one of this run; another run decides
only what belongs to the stage taken from it. A stage without a record starts from defaults.
What: a choice (`quantize=rqvae`) is the option that comes nearest; where the user chose, the whole group is the
user's. Settings of the machine or the site are not taken: paths, addresses, workers, `cluster`, and `runtime` but
for `micro_batch_size`, of which `stream.global_batch_size` is a multiple.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from trialign.config.option import default_of
from trialign.config.registry import BASE, OPTIONAL, SCHEMAS
from trialign.config.stages import folder_of
from trialign.config.verbs import STAGES, VERBS
from trialign.foreign import Json
from trialign.manifest import flatten
from trialign.stage import settings_of

_GROUP = "hydra/taken"
_EVER = "runtime.micro_batch_size"


@dataclass(frozen=True)
class Taken:
    """The settings taken from runs.

    Args:
        words: overrides that make Hydra compose with it.
        runs: where it comes from.
        choices: group -> file, where another would have been composed.
        values: dotted setting -> value.
        first: the settings without it.
        before: the settings with its choices alone.
    """

    words: list[str] = field(default_factory=list)
    runs: tuple[Path, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Json] = field(default_factory=dict)
    first: Mapping[str, Json] = field(default_factory=dict)
    before: Mapping[str, Json] = field(default_factory=dict)

    def told(self, tree: DictConfig) -> str:
        """Return the line that lists the taken settings that took effect in a composed config; empty if none did."""
        now = _flat(tree)
        changed = {key for key in now.keys() | self.first.keys() if now.get(key) != self.first.get(key)}
        choices = {
            path: name
            for path, name in self.choices.items()
            if any(key.startswith(f"{path.replace('/', '.')}.") for key in changed)
        }
        values = {
            key: value
            for key, value in self.values.items()
            if key in changed and now.get(key) == value != self.before.get(key)
        }
        told = " ".join(f"{key}={_shown(value)}" for key, value in {**choices, **values}.items())
        return f"settings of {', '.join(map(str, self.runs))}: {told}" if told else ""


def takes(verb: str) -> bool:
    """Return whether a verb takes settings from its run."""
    return VERBS[verb].resumes


def taken_for(verb: str, tree: DictConfig, load: Callable[[Sequence[str]], DictConfig]) -> Taken:
    """Return the settings that a verb takes from its run, and from the runs that `from.STAGE` names.

    Args:
        verb: what is composed.
        tree: the verb's config without them, with Hydra's own settings.
        load: composes it with further overrides.
    """
    if not takes(verb) or OmegaConf.is_missing(tree, "run"):
        return Taken()
    runs, found = _records(verb, tree)
    if not found:
        return Taken()
    first = _flat(tree)
    chosen = _choices(tree)
    typed = {word.lstrip("+").partition("=")[0] for word in tree.hydra.overrides.task}
    nearest = _nearest_choices(
        found, {path: name for path, name in chosen.items() if path not in typed}, _folders(tree)
    )
    other = {path: name for path, name in nearest.items() if chosen[path] != name}
    with suppress(HydraException):  # an experiment may set a key that the run's option lacks
        if other:  # the user's choice wins: composing again shows which one is the user's
            tree = load([_stored({}, nearest)])
            chosen = _choices(tree)
    ours = {path for path, name in nearest.items() if chosen[path] == name}
    values = {group: _escaped(node) for group, node in _without(found, SCHEMAS.keys() - ours).items()}
    return Taken(
        words=[_stored(values, {path: nearest[path] for path in nearest if path in ours})],
        runs=runs,
        choices={path: name for path, name in other.items() if path in ours},
        values=flatten(values),
        first=first,
        before=_flat(tree) if other else first,
    )


def _records(verb: str, tree: DictConfig) -> tuple[tuple[Path, ...], dict[str, Json]]:
    """Return the runs whose stages a verb reads, and the recorded settings of those stages as one config."""
    own = OmegaConf.select(tree, "cluster.verb") if verb == "submit" else verb
    run, split = Path(tree.run).expanduser().absolute(), str(OmegaConf.select(tree, "evaluate.split"))
    sources = OmegaConf.select(tree, "from") or {}
    taken = {str(key): Path(value).expanduser().absolute() for key, value in sources.items() if value is not None}
    runs: dict[Path, None] = {}
    found: dict[str, Json] = {}
    for stage in _stages(own):
        folder = folder_of(stage, run, taken)
        record = settings_of(folder / split if stage == "evaluate" else folder, attempts=stage not in taken)
        if record is not None:
            made = _of_stage(stage, *record, alone=stage in taken)
            found |= {**made, "runtime": _mapping(found.get("runtime")) | _mapping(made.get("runtime"))}
            runs[folder.parent] = None
    return tuple(runs), {group: node for group, node in found.items() if node != {}}


def _of_stage(
    stage: str, config: Mapping[str, Json], executions: Mapping[str, Json], *, alone: bool
) -> dict[str, Json]:
    """Return the recorded settings of one stage as a config; with `alone`, without those that stages share."""
    groups = [group for group in STAGES[stage].groups if group in config and not (alone and _is_shared(group))]
    made: dict[str, Json] = {group: config[group] for group in groups}
    if not alone and "seed" in config:
        made["seed"] = config["seed"]
    for key, value in executions.items():
        group, *parts, last = key.split(".")
        if (key == _EVER and not alone) or (group in groups and "://" not in str(value)):
            node = _mapping(made.setdefault(group, {}))
            for part in parts:
                node = _mapping(node.get(part))
            node[last] = value
    return made


def _mapping(node: Json) -> dict[str, Json]:
    """Return the settings of a group; empty if the group is null."""
    return node if isinstance(node, dict) else {}


def _is_shared(group: str) -> bool:
    return sum(group in spec.groups for spec in STAGES.values()) > 1


def _stages(own: str | None) -> list[str]:
    """Return the stages whose settings a verb reads: all that are upstream under any config, its own last."""
    if own not in STAGES:
        return list(STAGES)
    reached: dict[str, None] = {}

    def add(stage: str) -> None:
        for other in (*STAGES[stage].inputs, *STAGES[stage].inputs_if):
            add(other)
        reached[stage] = None

    add(str(own))
    return sorted(reached, key=lambda stage: (stage == own, list(STAGES).index(stage)))


def _nearest_choices(found: Mapping[str, Json], chosen: Mapping[str, str], folders: Sequence[Path]) -> dict[str, str]:
    nearest = {}
    for path in SCHEMAS:
        group, *below = path.split("/")
        if path in chosen and group in found:
            node = found[group]
            for name in below:
                node = _mapping(node).get(name)
            if path == "runtime":
                nearest[path] = "default"  # not a site's file, which sets more than is recorded
            elif (file := _nearest(path, node, chosen[path], folders)) is not None:
                nearest[path] = file
    return nearest


def _nearest(path: str, node: Json, chosen: str, folders: Sequence[Path]) -> str | None:
    """Return the option of a group with the fewest conflicts with the recorded settings; None if no option fits."""
    if not isinstance(node, Mapping):
        return "none" if path in OPTIONAL else None
    names = {file.stem for folder in folders for file in (folder / path).glob("*.yaml")} | SCHEMAS[path].keys() - {BASE}
    recorded = flatten(node)
    best: tuple[int, int, bool, str] | None = None
    for name in sorted(names):
        known, said = _option(path, name, folders)
        if said.get("_target_") != node.get("_target_") or not node.keys() <= known:
            continue
        held = [recorded[key] == value for key, value in said.items() if key in recorded]
        score = (-held.count(False), held.count(True), name == chosen, name)
        best = score if best is None else max(best, score)
    return None if best is None else best[-1]


def _option(path: str, name: str, folders: Sequence[Path]) -> tuple[set[str], dict[str, Json]]:
    """Return all keys of one option of a group, and the values that its files set, by dotted key."""
    file = next((found for folder in folders if (found := folder / path / f"{name}.yaml").exists()), None)
    if file is None:
        schema = SCHEMAS[path].get(name)
        own = {found.name: default_of(found) for found in fields(schema)} if schema is not None else {}
        return set(own), {name: value for name, value in own.items() if name == "_target_"}
    raw: Any = OmegaConf.to_container(OmegaConf.load(file)) or {}
    known, said = set[str](), dict[str, Json]()
    for entry in raw.pop("defaults", []):
        if isinstance(entry, Mapping):
            known |= {str(key).rpartition("/")[2] for key in entry}  # a group below this one
        elif entry != "_self_":
            more, base = _option(path, str(entry), folders)
            known, said = known | more, said | base
    return known | set(raw), said | flatten(raw)


def _without(found: Mapping[str, Json], paths: set[str]) -> dict[str, Json]:
    """Return the recorded settings without these groups, and without groups that are null."""

    def kept(node: Mapping[str, Json], prefix: str) -> dict[str, Json]:
        values: dict[str, Json] = {}
        for key, value in node.items():
            path = f"{prefix}{key}"
            if path in paths or (path in SCHEMAS and value is None):
                continue
            values[key] = kept(value, f"{path}/") if isinstance(value, Mapping) else value
        return values

    return kept(found, "")


def _stored(values: Mapping[str, Json], choices: Mapping[str, str]) -> str:
    """Store a config under a unique name, since members of a sweep have different ones; return its override."""
    node = {"defaults": [*({f"override /{path}": name} for path, name in choices.items()), "_self_"], **values}
    name = f"run-{hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:12]}"
    ConfigStore.instance().store(group=_GROUP, name=name, node=node, package="_global_")
    return f"{_GROUP}={name}"


def _choices(tree: DictConfig) -> dict[str, str]:
    return {str(path): str(name) for path, name in tree.hydra.runtime.choices.items()}


def _folders(tree: DictConfig) -> list[Path]:
    """Return the folders of YAML files, the user's own included."""
    return [Path(source.path) for source in tree.hydra.runtime.config_sources if source.schema == "file"]


def _flat(tree: DictConfig) -> dict[str, Json]:
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    return flatten({str(key): value for key, value in plain.items() if key != "hydra"})


def _escaped(node: Json) -> Json:
    """Return values with `${` escaped in texts, for two resolutions (config/typed.py)."""
    if isinstance(node, Mapping):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    return node.replace("${", r"\\\${") if isinstance(node, str) else node


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
