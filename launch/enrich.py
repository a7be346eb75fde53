"""Make evidence that the catalogue does not hold as such: the small CLIP, where it is asked for."""

from __future__ import annotations

import logging
from dataclasses import asdict

from trialign.config.compose import Config
from trialign.config.stages import open_stage
from trialign.config.tracking import tracking_of
from trialign.manifest import Stage

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Make what `enrich` asks for, which may be nothing, or find it made."""
    stage = open_stage("enrich", config)
    if stage.finished:
        return stage
    with stage.building() as folder:
        if config.enrich.clip is not None:
            from trialign.data.dataset import Dataset
            from trialign.enrich.clip.pairs import find_pairs
            from trialign.enrich.clip.train import train_clip

            settings, runtime = asdict(config.enrich.clip), config.runtime
            dataset = Dataset(stage.inputs["prepare"])
            found = find_pairs(settings.pop("pairs"), dataset, settings.pop("num_pairs"), settings["seed"])
            counts = train_clip(
                found,
                folder / "clip",
                **settings,
                accelerator=runtime.accelerator,
                progress=runtime.progress,
                tracking=tracking_of(config, stage),
            )
            stage.counts["clip"] = counts
            log.info("  small CLIP: %s", ", ".join(f"{name} {value}" for name, value in counts.items()))
    return stage
