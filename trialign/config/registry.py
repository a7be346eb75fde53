"""Registers every schema with Hydra's ConfigStore, so that a mistyped key is refused while composing."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from functools import cache

from hydra.core.config_store import ConfigStore
from omegaconf import BooleanNode, DictConfig, IntegerNode, OmegaConf, StringNode

from trialign.config.assign import AssignConfig
from trialign.config.cluster import ClusterConfig
from trialign.config.data import DataConfig, ExamplesConfig, InterJsonConfig, StorefrontConfig, TablesConfig
from trialign.config.doctor import DoctorConfig
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
    EnrichConfig,
    TagCaptionsConfig,
    TransformersCaptionsConfig,
    TransformersInterestsConfig,
)
from trialign.config.evaluate import BaselinesConfig, EvaluateConfig, RecommendConfig, ReportConfig
from trialign.config.quantize import QuantizeConfig, RQKMeansConfig, RQVAEConfig
from trialign.config.reward import EndpointJudgeConfig, RewardConfig, TransformersJudgeConfig
from trialign.config.rl import RLConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import TrackingConfig
from trialign.config.train import (
    DescribedConfig,
    LoraConfig,
    PretrainedConfig,
    ScratchConfig,
    StreamConfig,
    TasksConfig,
    TrainConfig,
)
from trialign.config.verbs import STAGES, VERBS

SCHEMAS: dict[str, dict[str, type]] = {
    "data": {
        "storefront": StorefrontConfig,
        "interjson": InterJsonConfig,
        "tables": TablesConfig,
        "examples": ExamplesConfig,
    },
    "enrich": {"enrich": EnrichConfig},
    "enrich/clip": {"clip": ClipConfig},
    "enrich/captions": {
        "catalogue_captions": CatalogueCaptionsConfig,
        "builtin_captions": TagCaptionsConfig,
        "transformers_captions": TransformersCaptionsConfig,
        "endpoint_captions": EndpointCaptionsConfig,
    },
    "enrich/interests": {
        "builtin_interests": BuiltinInterestsConfig,
        "transformers_interests": TransformersInterestsConfig,
        "endpoint_interests": EndpointInterestsConfig,
    },
    "embed": {"embed": EmbedConfig},
    "embed/text": {"tfidf": TfidfConfig, "transformers": TransformersConfig, "sentence": SentenceConfig},
    "embed/image": {"open_clip": OpenClipConfig},
    "embed/joint": {"joint": JointConfig, "clip_joint": OpenClipJointConfig},
    "embed/collaborative": {"ppmi": PpmiConfig},
    "quantize": {"rqvae": RQVAEConfig, "rkmeans": RQKMeansConfig},
    "assign": {"assign": AssignConfig},
    "train": {"train": TrainConfig},
    "train/backbone": {"scratch": ScratchConfig, "described": DescribedConfig, "pretrained": PretrainedConfig},
    "train/lora": {"lora": LoraConfig},
    "train/tasks": {"tasks": TasksConfig},
    "stream": {"stream": StreamConfig},
    "reward": {"reward": RewardConfig},
    "reward/lora": {"lora": LoraConfig},
    "reward/judge": {"transformers_judge": TransformersJudgeConfig, "endpoint_judge": EndpointJudgeConfig},
    "rl": {"rl": RLConfig},
    "rl/lora": {"lora": LoraConfig},
    "baselines": {"baselines": BaselinesConfig},
    "evaluate": {"evaluate": EvaluateConfig},
    "report": {"report": ReportConfig},
    "recommend": {"recommend": RecommendConfig},
    "runtime": {"runtime": RuntimeConfig},
    "cluster": {"cluster": ClusterConfig},
    "tracking": {"tracking": TrackingConfig},
    "doctor": {"doctor": DoctorConfig},
}
"""Config group -> schema name -> schema. A YAML of the group builds on one by `defaults: [<name>_schema, _self_]`."""

BASES: dict[str, type] = {"data": DataConfig, "quantize": QuantizeConfig}
"""Groups whose `_target_` is exchangeable, and the fields that do not depend on which class is chosen."""


_READ = {needed for stage in STAGES.values() for needed in (*stage.inputs, *stage.inputs_if)}

FromConfig = make_dataclass("FromConfig", [(verb, str | None, None) for verb in STAGES if verb in _READ])
"""Finished stages of other runs, by verb: `from.<verb>=DIR`."""

_ROOT = ["base", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}, "_self_"]
"""What every verb composes. Hydra lets no other file than this first one choose its logging."""


@cache
def register() -> None:
    """Put every schema into the ConfigStore; calling it again does nothing."""
    store = ConfigStore.instance()
    # A plain mapping of typed nodes: `from` is a Python keyword, so the root cannot be a dataclass.
    root = {"run": StringNode("???"), "seed": IntegerNode(0, is_optional=False), "rebuild": BooleanNode(False)}
    store.store(name="root_schema", node=root)
    store.store(group="from", name="from_schema", node=FromConfig)
    for verb, spec in VERBS.items():
        store.store(name=verb, node={"defaults": _ROOT, **spec.root})
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=group, name=f"{name}_schema", node=_node(schema))


def _node(schema: type) -> DictConfig:
    node: DictConfig = OmegaConf.structured(schema)
    for found in fields(schema):
        if found.metadata.get("open_keys"):
            OmegaConf.set_struct(node[found.name], False)
    return node
