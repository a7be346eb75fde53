"""The composed config: what every verb may read, as plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trialign.config.assign import AssignConfig
from trialign.config.cluster import ClusterConfig
from trialign.config.data import DataConfig
from trialign.config.doctor import DoctorConfig
from trialign.config.embed import EmbedConfig
from trialign.config.enrich import EnrichConfig
from trialign.config.evaluate import BaselinesConfig, EvaluateConfig, RecommendConfig, ReportConfig
from trialign.config.export import ExportConfig
from trialign.config.quantize import QuantizeConfig
from trialign.config.reward import RewardConfig
from trialign.config.rl import RLConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.serve import ServeConfig
from trialign.config.tracking import TrackingConfig
from trialign.config.train import StreamConfig, TrainConfig
from trialign.foreign import Json


@dataclass(frozen=True)
class Groups:
    """The groups of settings."""

    data: DataConfig
    enrich: EnrichConfig
    embed: EmbedConfig
    quantize: QuantizeConfig
    assign: AssignConfig
    train: TrainConfig
    stream: StreamConfig
    reward: RewardConfig
    rl: RLConfig
    baselines: BaselinesConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    report: ReportConfig
    recommend: RecommendConfig
    serve: ServeConfig
    runtime: RuntimeConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    doctor: DoctorConfig


@dataclass(frozen=True)
class Config(Groups):
    """Everything a verb may read."""

    run: Path
    seed: int
    rebuild: bool
    from_stage: dict[str, Path]
    identity: dict[str, dict[str, Json]]
    """The fields of every group that belong to a stage's identity, for manifests."""
    recorded: dict[str, dict[str, Json]]
    """Those next to it that can change the numbers all the same, dotted within their group, for manifests."""
