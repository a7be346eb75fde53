"""Train the generator on its tasks, under one autoregressive loss."""

from __future__ import annotations

from pathlib import Path

from trialign.config.config import Config
from trialign.config.stages import model_files, open_stage, tracking_of
from trialign.config.train import ConfigFileConfig, PretrainedConfig
from trialign.stage import CHECKPOINTS, Stage


def run(config: Config) -> Stage:
    """Train and save the generator, or find it trained."""
    stage = open_stage("train", config, sources=_model_files(config))
    if stage.finished:
        return stage
    from trialign.generate.build import load_training_data
    from trialign.generate.train import train
    from trialign.runtime.loss_watch import SKIPPED_BATCHES
    from trialign.runtime.notice import saved_first
    from trialign.runtime.ranks import end_other_ranks, launched_rank, ranks_for_a_while

    data = load_training_data(stage.inputs)
    tracking = tracking_of(config, stage)
    kept = [CHECKPOINTS, SKIPPED_BATCHES, "log", "sample_log"]
    first, patience = launched_rank() == 0, 60.0 * config.runtime.patience_minutes
    with saved_first(), stage.building(kept, first=first, patience=patience) as folder, ranks_for_a_while():
        stage.counts |= train(
            data, folder, config.train, config.stream, config.runtime, seed=config.seed, tracking=tracking
        )
    end_other_ranks(first=first)
    return stage


def _model_files(config: Config) -> dict[str, Path]:
    """Return the files of a backbone named by path."""
    backbone = config.train.backbone
    if isinstance(backbone, PretrainedConfig):
        return model_files("backbone.model", backbone.model)
    return model_files("backbone.file", backbone.file) if isinstance(backbone, ConfigFileConfig) else {}
