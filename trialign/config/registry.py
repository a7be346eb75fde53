"""Register the schemas with Hydra: a root config per verb, and every schema as an option of its group.

A mistyped key is refused while composing. Files of conf/ say only what differs from a schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, make_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from trialign.config.cluster import ClusterConfig
from trialign.config.config import Groups
from trialign.config.data import ExamplesConfig, InterJsonConfig, StorefrontConfig, TablesConfig
from trialign.config.embed import (
    EmbedConfig,
    JointConfig,
    OpenClipConfig,
    OpenClipJointConfig,
    PpmiConfig,
    SentenceConfig,
    TfidfConfig,
    TransformersConfig,
)
from trialign.config.enrich import (
    BuiltinInterestsConfig,
    CatalogueCaptionsConfig,
    ClipConfig,
    EndpointCaptionsConfig,
    EndpointInterestsConfig,
    TagCaptionsConfig,
    TransformersCaptionsConfig,
    TransformersInterestsConfig,
)
from trialign.config.option import option
from trialign.config.quantize import RQKMeansConfig, RQVAEConfig
from trialign.config.reward import EndpointJudgeConfig, TransformersJudgeConfig
from trialign.config.tracking import TrackingConfig
from trialign.config.train import (
    ConfigFileConfig,
    LoraConfig,
    PretrainedConfig,
    ScratchConfig,
    TasksConfig,
)
from trialign.config.verbs import STAGES, VERBS

BASE = "base"
"""The schema of a group whose file `default.yaml`, or whose sets of values, build on it: it is not an option itself."""

_CHOICES: dict[str, dict[str, type]] = {
    "data": {
        "storefront": StorefrontConfig,
        "interjson": InterJsonConfig,
        "tables": TablesConfig,
        "examples": ExamplesConfig,
    },
    "enrich/clip": {"catalogue": ClipConfig},
    "enrich/captions": {
        "catalogue": CatalogueCaptionsConfig,
        "builtin": TagCaptionsConfig,
        "transformers": TransformersCaptionsConfig,
        "endpoint": EndpointCaptionsConfig,
    },
    "enrich/interests": {
        "builtin": BuiltinInterestsConfig,
        "transformers": TransformersInterestsConfig,
        "endpoint": EndpointInterestsConfig,
    },
    "embed": {BASE: EmbedConfig},
    "embed/text": {
        "tfidf": TfidfConfig,
        "transformers": TransformersConfig,
        "sentence_transformers": SentenceConfig,
    },
    "embed/image": {"open_clip": OpenClipConfig},
    "embed/joint": {"transformers": JointConfig, "clip": OpenClipJointConfig},
    "embed/collaborative": {"ppmi": PpmiConfig},
    "quantize": {"rqvae": RQVAEConfig, "rkmeans": RQKMeansConfig},
    "train/backbone": {"scratch": ScratchConfig, "from_config": ConfigFileConfig, "pretrained": PretrainedConfig},
    "train/lora": {"lora": LoraConfig},
    "train/tasks": {BASE: TasksConfig},
    "reward/lora": {"lora": LoraConfig},
    "reward/judge": {"transformers": TransformersJudgeConfig, "endpoint": EndpointJudgeConfig},
    "rl/lora": {"lora": LoraConfig},
    "cluster": {"none": ClusterConfig},
    "tracking": {"none": TrackingConfig},
}
"""Groups with several options, or with groups below them: group -> option -> schema."""

_DEFAULTS = {"data": "storefront", "quantize": "rkmeans", "cluster": "none", "tracking": "none"}
"""Options that verbs compose; of every other group, `default`."""


def _schemas() -> dict[str, dict[str, type]]:
    found: dict[str, dict[str, type]] = {}
    for group, kind in get_type_hints(Groups).items():
        nested = {path: options for path, options in _CHOICES.items() if path.startswith(f"{group}/")}
        found[group] = _CHOICES.get(group) or {BASE if nested else "default": kind}
        found |= nested
    return found


SCHEMAS = _schemas()
"""Config group -> option -> schema. A YAML file of the group builds on one by `defaults: [OPTION, _self_]`."""


def _bases() -> Iterator[tuple[str, type, bool]]:
    """Yield every group, the class that its options extend, and whether it may be null."""
    groups = get_type_hints(Groups)
    for path in SCHEMAS:
        group, _, name = path.partition("/")
        hint = get_type_hints(groups[group])[name] if name else groups[group]
        base, *null = get_args(hint) or (hint,)
        yield path, base, bool(null)


OPTIONAL = [path for path, _, may_be_null in _bases() if may_be_null]
"""Groups with the option `none`, by which the setting is null."""

BASES = {path: base for path, base, _ in _bases() if hasattr(base, "_target_")}
"""Groups whose `_target_` is exchangeable, and the fields that do not depend on which class is chosen.

Settings of a class from outside are an instance of that base, what else the class takes being attributes of it.
"""

_READ = {needed for stage in STAGES.values() for needed in (*stage.inputs, *stage.inputs_if)}

FromConfig = make_dataclass(
    "FromConfig",
    [
        (verb, str | None, option(None, f"directory of another run, whose finished stage {verb} is read instead"))
        for verb in STAGES
        if verb in _READ
    ],
)
"""Finished stages of other runs, by verb: `from.<verb>=DIR`."""


@dataclass
class RootConfig:
    """The run, and what is made of it."""

    run: str = option("???", "directory of the run; every stage is a folder of it", hashed=False)
    seed: int = option(0, "of all random draws; another seed makes another result")
    rebuild: bool = option(False, "make a finished stage again after a setting changed", hashed=False)


_ROOT: list[Any] = [
    "root_schema",
    {"from": "from_schema"},
    *({group: _DEFAULTS.get(group, "default")} for group in SCHEMAS if "/" not in group),
    {"hydra/taken": None},  # settings of a run, from its manifests (taken.py)
    {"experiment": None},
    {"experiment/variant": None},
    "hydra_settings",
    {"override hydra/job_logging": "none"},
    {"override hydra/hydra_logging": "none"},
    "_self_",
]
"""What every verb composes: an option per group, what the run was made with, an experiment and a variant of it."""


@cache
def register() -> None:
    """Put every schema into the ConfigStore; calling it again does nothing."""
    store = ConfigStore.instance()
    # A plain mapping of its typed nodes, to which Hydra adds the groups: `from` cannot be a field of a dataclass.
    root = OmegaConf.structured(RootConfig)
    store.store(name="root_schema", node={found.name: root._get_node(found.name) for found in fields(RootConfig)})
    store.store(group="from", name="from_schema", node=FromConfig)
    for verb, spec in VERBS.items():
        store.store(name=verb, node={"defaults": _ROOT, **spec.root})
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=group, name=name, node=_node(group, schema))
    for path in OPTIONAL:
        group, name = path.split("/")
        store.store(group=path, name="none", node={name: None}, package=group)


def _node(group: str, schema: type) -> DictConfig:
    node: DictConfig = OmegaConf.structured(schema)
    if hasattr(schema, "_target_"):
        OmegaConf.set_struct(node, True)  # only classes from outside may have more keys
    for found in fields(schema):
        if found.metadata.get("open_keys") or f"{group}/{found.name}" in BASES:
            child = node._get_node(found.name)
            assert isinstance(child, DictConfig)
            OmegaConf.set_struct(child, False)
    return node
