"""Fit the residual quantizer on the item vectors."""

from __future__ import annotations

from trialign.config.compose import Config
from trialign.config.instantiate import instantiate
from trialign.config.stages import open_stage
from trialign.config.tracking import tracking_of
from trialign.manifest import Stage


def run(config: Config) -> Stage:
    """Fit and save the quantizer that `quantize._target_` names, or find it fitted."""
    stage = open_stage("quantize", config)
    if stage.finished:
        return stage
    from trialign.embed.store import load

    modalities = load(stage.inputs["embed"])
    # One process: a catalogue's vectors fit it.
    runtime = {"accelerator": config.runtime.accelerator, "tracking": tracking_of(config, stage)}
    quantizer = instantiate(config.quantize, "quantize")
    with stage.building() as folder:
        stage.counts["health"] = quantizer.fit(modalities, seed=config.seed, folder=folder, runtime=runtime)
        quantizer.save(folder)
    return stage
