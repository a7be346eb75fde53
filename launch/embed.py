"""Embed every item: its text and its picture, one vector each."""

from __future__ import annotations

from trialign.config.compose import Config
from trialign.config.instantiate import instantiate
from trialign.config.stages import open_stage
from trialign.manifest import Stage


def run(config: Config) -> Stage:
    """Write one memory-mapped array per modality, or find them written."""
    stage = open_stage("embed", config)
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed import embed

    encoders = {name: instantiate(node, f"embed.{name}") for name, node in config.embed.items() if node is not None}
    with stage.building() as folder:
        stage.counts |= embed(Dataset(stage.inputs["prepare"]), encoders, folder)
    return stage
