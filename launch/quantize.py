"""Fit the residual quantizer on the item vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trialign.config.config import Config
from trialign.config.instantiate import create
from trialign.config.stages import open_stage, runtime_of, tracking_of
from trialign.stage import Stage

if TYPE_CHECKING:
    from trialign.quantize.quantizer import Quantizer


def run(config: Config) -> Stage:
    """Fit and save the quantizer that `quantize._target_` names, or find it fitted."""
    stage = open_stage("quantize", config)
    if stage.finished:
        return stage
    from trialign.embed.store import load, load_interests
    from trialign.runtime.ranks import end_other_ranks, launched_rank, ranks_for_a_while

    modalities, interests = load(stage.inputs["embed"]), load_interests(stage.inputs["embed"])
    runtime, tracking = runtime_of("quantize", config), tracking_of(config, stage)
    quantizer: Quantizer = create(config.quantize, "quantize")
    first = launched_rank() == 0
    patience = 60.0 * config.runtime.patience_minutes
    with stage.building(first=first, patience=patience) as folder, ranks_for_a_while():
        stage.counts["codebook_stats"] = quantizer.fit(
            modalities, seed=config.seed, folder=folder, runtime=runtime, interests=interests, tracking=tracking
        )
        if first:
            quantizer.save(folder)
    end_other_ranks(first=first)
    return stage
