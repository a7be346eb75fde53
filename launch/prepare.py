"""Turn a catalogue and interaction logs into a dataset: item table, history shards per split, image shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trialign.config.config import Config
from trialign.config.instantiate import create
from trialign.config.stages import open_stage
from trialign.stage import Stage

if TYPE_CHECKING:
    from trialign.data.source import Source


def run(config: Config) -> Stage:
    """Build the dataset, or find it finished."""
    from trialign.data.prepare import PARTITIONED, prepare

    source: Source = create(config.data, "data")
    stage = open_stage("prepare", config, sources=source.sources())
    if not stage.finished:
        with stage.building(keep=[PARTITIONED]) as folder:
            stage.counts |= prepare(source, folder, config.data)
    return stage
