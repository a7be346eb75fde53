"""Embed every item: its text and its picture, one vector each."""

from __future__ import annotations

import logging

from trialign.config.compose import Config
from trialign.config.instantiate import instantiate
from trialign.config.stages import open_stage
from trialign.manifest import Stage

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Write one memory-mapped array per modality, or find them written."""
    stage = open_stage("embed", config)
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed import store
    from trialign.embed.evidence import item_texts

    dataset = Dataset(stage.inputs["prepare"])
    evidence = {"text": lambda: (item_texts(dataset.items),), "image": lambda: (dataset.images(), dataset.keys)}
    with stage.building() as folder:
        modalities = {}
        for name, arguments in evidence.items():
            if config.embed[name] is not None:
                encoder = instantiate(config.embed[name], f"embed.{name}")
                modalities[name] = encoder.encode(*arguments())
                stage.counts[name] = {"items": int(modalities[name].present_N.sum()), "notes": encoder.notes}
                for note in encoder.notes:
                    log.info("  %s", note)
        store.save(folder, modalities, dataset.keys)
    return stage
