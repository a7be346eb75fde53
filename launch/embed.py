"""Embed every item: its text, its picture, and what it is chosen with, one vector each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from trialign.config.compose import Config
from trialign.config.instantiate import instantiate
from trialign.config.stages import CLIP_OF_ENRICH, model_files, open_stage
from trialign.errors import ConfigError
from trialign.manifest import Stage

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Write one memory-mapped array per modality, or find them written."""
    stage = open_stage("embed", config, sources=_weights(config))
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed import store
    from trialign.embed.batches import PROGRESS
    from trialign.embed.encode import KEPT, embed

    dataset = Dataset(stage.inputs["prepare"])
    with stage.building(keep=KEPT) as folder:
        modalities = {}
        for name, settings in config.embed.items():
            if settings is not None:
                encoder = instantiate(_located(settings, stage), f"embed.{name}")
                modalities[name] = embed(name, encoder, dataset, folder)
                stage.counts[name] = {"items": int(modalities[name].present_N.sum()), "notes": encoder.notes}
                for note in encoder.notes:
                    log.info("  %s", note)
        store.check(modalities, dataset.keys)
        for path in folder.glob(f"*{PROGRESS}"):
            path.unlink()
    return stage


def _weights(config: Config) -> dict[str, Path]:
    """Return the files of models named by path: their content, not their name, is part of what was made by them."""
    found: dict[str, Path] = {}
    for modality, settings in config.embed.items():
        for key in ("model", "checkpoint"):
            found |= model_files(f"{modality}.{key}", str((settings or {}).get(key)).removeprefix("local-dir:"))
    return found


def _located(settings: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """Put the folder of the small CLIP in the place of its name."""
    if settings.get("model") != CLIP_OF_ENRICH:
        return settings
    folder = stage.inputs["enrich"] / "clip"
    if not folder.is_dir():
        raise ConfigError(
            f"embed.image.model={CLIP_OF_ENRICH}, but {folder} does not exist",
            rule="embed/image=clip embeds by the small CLIP that the enrich stage trained",
            remedy="set enrich/clip=storefront or enrich/clip=catalogue too, or choose embed/image=open_clip",
        )
    return settings | {"model": f"local-dir:{folder}"}
