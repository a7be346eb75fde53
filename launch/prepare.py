"""Turn a catalogue and interaction logs into a dataset: item table, history shards per split, image shards."""

from __future__ import annotations

from trialign.config.compose import split_fields
from trialign.config.config import Config
from trialign.config.instantiate import instantiate
from trialign.config.stages import open_stage
from trialign.stage import Stage


def run(config: Config) -> Stage:
    """Build the dataset, or find it finished."""
    from trialign.data.prepare import PARTITIONED, prepare

    common, own = split_fields(config.data, "data")
    source = instantiate(own, "data")
    stage = open_stage("prepare", config, sources=source.sources())
    if not stage.finished:
        with stage.building(keep=[PARTITIONED]) as folder:
            stage.counts |= prepare(source, folder, **common)
    return stage
