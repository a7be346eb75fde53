"""Embed every item: its text, its picture, both together, and its co-occurrence with other items, one vector each."""

from __future__ import annotations

import logging
from copy import copy
from pathlib import Path

from trialign.config.config import Config
from trialign.config.embed import EncoderConfig
from trialign.config.instantiate import create
from trialign.config.stages import model_files, open_stage
from trialign.config.verbs import CLIP_OF_ENRICH, reads_enriched_evidence
from trialign.errors import ConfigError
from trialign.stage import Stage

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Write one memory-mapped array per modality, or find them written."""
    stage = open_stage("embed", config, sources=_weights(config))
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed import store
    from trialign.embed.batches import PROGRESS
    from trialign.embed.encode import KEPT, embed, embed_interests
    from trialign.embed.evidence import interests_of, item_texts, require_evidence
    from trialign.enrich.evidence import load_evidence
    from trialign.reward.quality import load_probabilities

    dataset = Dataset(stage.inputs["prepare"])
    enriched = load_evidence(stage.inputs["enrich"]) if reads_enriched_evidence(config) else None
    if "reward" in stage.inputs and enriched is not None:
        enriched, left_out = enriched.likely(load_probabilities(stage.inputs["reward"]), config.embed.min_probability)
        stage.counts["interests_left_out"] = left_out
        log.info("  %d interests left out, of a probability below %g", left_out, config.embed.min_probability)
    texts = item_texts(dataset.items, config.embed.evidence, enriched)
    interests = interests_of(enriched, "embed.interests") if config.embed.interests else None
    asked = {name: _located(name, settings, stage) for name, settings in config.embed.encoders().items()}
    require_evidence(config.embed, dataset.items, texts, interests)
    with stage.building(keep=KEPT) as folder:
        modalities: dict[str, store.Modality] = {}
        for name, settings in asked.items():
            encoder = create(settings, f"embed.{name}")
            modalities[name] = embed(name, encoder, dataset, texts, folder, modalities)
            stage.counts[name] = {"items": int(modalities[name].present_N.sum()), "notes": list(encoder.notes)}
            for note in encoder.notes:
                log.info("  %s", note)
            if name == "text" and interests is not None:
                stage.counts["interests"] = {"items": embed_interests(encoder, interests, folder)}
        store.check(modalities, dataset.keys)
        for path in folder.rglob(f"*{PROGRESS}"):
            path.unlink()
    return stage


def _weights(config: Config) -> dict[str, Path]:
    """Return the files of models that are named by path: the stage's identity covers their content."""
    found: dict[str, Path] = {}
    for modality, settings in config.embed.encoders().items():
        for key, name in settings.files().items():
            found |= model_files(f"{modality}.{key}", str(name).removeprefix("local-dir:"))
    return found


def _located(modality: str, settings: EncoderConfig, stage: Stage) -> EncoderConfig:
    """Replace the name of the small CLIP by its folder."""
    if settings.files().get("model") != CLIP_OF_ENRICH:
        return settings
    folder = stage.inputs["enrich"] / "clip"
    if not folder.is_dir():
        raise ConfigError(
            f"embed.{modality}.model={CLIP_OF_ENRICH}, but {folder} does not exist",
            rule=f"embed/{modality}=clip embeds by the small CLIP that the enrich stage trained",
            remedy=f"set enrich/clip=storefront or enrich/clip=catalogue too, or choose another embed/{modality}",
        )
    located = copy(settings)
    vars(located)["model"] = f"local-dir:{folder}"  # works for a class from outside too
    return located
