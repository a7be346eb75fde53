"""Train the generator further on held-out positions, by reinforcement learning or by its supervised control."""

from __future__ import annotations

from trialign.config.config import Config
from trialign.config.stages import model_files, open_stage, tracking_of
from trialign.manifest import Manifest
from trialign.stage import CHECKPOINTS, Stage


def run(config: Config) -> Stage:
    """Train the generator further, or find it trained."""
    stage = open_stage("rl", config, sources=model_files("reference", config.rl.reference))
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.reward.quality import load_quality
    from trialign.rl.start import Start
    from trialign.rl.train import reinforce
    from trialign.runtime.loss_watch import SKIPPED_BATCHES
    from trialign.runtime.notice import saved_first
    from trialign.runtime.ranks import end_other_ranks, launched_rank, ranks_for_a_while
    from trialign.semid.table import SIDTable

    start = Start(
        Dataset(stage.inputs["prepare"]),
        SIDTable.load(stage.inputs["assign"]),
        stage.inputs["train"],
        share=Manifest.read(stage.inputs["train"]).setting("train.rl_holdout", float),
        quality_N=load_quality(stage.inputs["reward"]) if "reward" in stage.inputs else None,
    )
    tracking = tracking_of(config, stage)
    kept = [CHECKPOINTS, SKIPPED_BATCHES, "log", "sample_log"]
    first, patience = launched_rank() == 0, 60.0 * config.runtime.patience_minutes
    with saved_first(), stage.building(kept, first=first, patience=patience) as folder, ranks_for_a_while():
        stage.counts |= reinforce(
            start, folder, config.rl, config.stream, config.runtime, seed=config.seed, tracking=tracking
        )
    end_other_ranks(first=first)
    return stage
