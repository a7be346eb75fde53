"""Generate item captions and interests, and train the small CLIP that some of them need."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from trialign.config.config import Config
from trialign.config.enrich import AnnotatorCaptionsConfig, AnnotatorInterestsConfig, BackendConfig, annotator_of
from trialign.config.stages import model_files, open_stage, runtime_of, tracking_of
from trialign.foreign import Json
from trialign.manifest import Manifest
from trialign.stage import Stage

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Generate what `enrich` configures, if anything, unless it is finished; a shard generates only its share."""
    stage = open_stage("enrich", config, sources=_sources(config))
    if stage.finished:
        return stage
    if config.enrich.shard is not None:
        with stage.working_out():
            _answer(config, stage, None)
        _tell_left(config)
        return stage
    with stage.building() as folder:
        _train_clip(config, stage, folder)
        _answer(config, stage, folder)
    return stage


def _train_clip(config: Config, stage: Stage, folder: Path) -> None:
    if config.enrich.clip is None:
        return
    from trialign.data.dataset import Dataset
    from trialign.enrich.clip.pairs import find_pairs
    from trialign.enrich.clip.train import train_clip

    settings, dataset = config.enrich.clip, Dataset(stage.inputs["prepare"])
    found = find_pairs(settings.pairs, dataset, settings.num_pairs, settings.seed)
    runtime, tracking = runtime_of("enrich", config), tracking_of(config, stage)
    counts = train_clip(found, folder / "clip", settings, runtime, tracking)
    _tell(stage, "clip", counts)


def _answer(config: Config, stage: Stage, folder: Path | None) -> None:
    """Generate captions, then interests, which read the captions; write them to `folder` if there is one."""
    wanted = config.enrich
    if wanted.captions is None and wanted.interests is None:
        return
    from trialign.data.dataset import Dataset
    from trialign.enrich.asking import Part
    from trialign.enrich.cache import ReplyCache
    from trialign.enrich.captions import shuffled_captions
    from trialign.enrich.evidence import write_captions, write_interests
    from trialign.enrich.html import write_page
    from trialign.enrich.junk import storefront_of, with_junk
    from trialign.enrich.make import make_captions, make_interests
    from trialign.enrich.truth import judge_captions, judge_interests

    dataset = Dataset(stage.inputs["prepare"])
    truth = dataset.truth()
    world = storefront_of(Manifest.read(stage.inputs["prepare"]))
    part = Part() if wanted.shard is None else Part(wanted.shard, wanted.shards)
    captions, interests = None, None

    def replies() -> ReplyCache:
        return ReplyCache(Path(wanted.cache).expanduser().absolute(), part.name)

    if wanted.captions is not None:
        clip = folder / "clip" if folder is not None and wanted.clip is not None else None
        captions, counts = make_captions(wanted.captions, dataset, clip, replies, part)
        _tell(stage, "captions", counts | judge_captions(truth, captions))
    if wanted.interests is not None:
        told = [found.caption for found in captions or ()]
        interests, counts = make_interests(wanted.interests, dataset, told, replies, part, storefront=world is not None)
        if world is not None:
            interests = with_junk(world, dataset.keys, interests)
        _tell(stage, "interests", counts | judge_interests(truth, interests))
    if captions is not None and wanted.shuffle_captions is not None:
        captions = shuffled_captions(captions, wanted.shuffle_captions)
        _tell(stage, "shuffle_captions", {"seed": wanted.shuffle_captions, **judge_captions(truth, captions)})
    if folder is not None:
        if captions is not None:
            write_captions(folder, captions)
        if interests is not None:
            write_interests(folder, interests)
        write_page(folder, dataset, captions, interests)


def _tell_left(config: Config) -> None:
    """Print what is left after a shard: the shards that have not begun, and the command that joins all."""
    from trialign.enrich.asking import Part

    shards, cache = config.enrich.shards, Path(config.enrich.cache).expanduser()
    missing = [shard for shard in range(shards) if not (cache / f"{Part(shard, shards).name}.jsonl").exists()]
    begun = f"not begun yet: {', '.join(map(str, missing))}" if missing else "all of them are begun"
    log.info("  shard %d of %d is answered (shards count from 0; %s)", config.enrich.shard, shards, begun)
    log.info("  the stage is not finished: when all are answered, `trialign enrich` without enrich.shard writes it")


def _tell(stage: Stage, what: str, counts: Mapping[str, Json]) -> None:
    stage.counts[what] = counts
    log.info("  %s: %s", what, ", ".join(f"{name} {value}" for name, value in counts.items()))


def _sources(config: Config) -> dict[str, Path]:
    """Return the files whose content the stage's identity covers: prompts, and models named by path."""
    found: dict[str, Path] = {}
    captions, interests = config.enrich.captions, config.enrich.interests
    if annotator_of(captions, AnnotatorCaptionsConfig) is not None:
        found |= _asked("captions", captions, "caption_direct")
    if (asking := annotator_of(interests, AnnotatorInterestsConfig)) is not None:
        found |= _asked("interests", interests, f"interests_{asking.variant}")
    return found


def _asked(what: str, chosen: BackendConfig | None, prompt: str) -> dict[str, Path]:
    from trialign.enrich.templates import template_file

    prompts = {f"prompts/{name}": template_file(name) for name in (prompt, "retry")}
    return prompts | model_files(f"{what}.model", None if chosen is None else chosen.loaded_model())
