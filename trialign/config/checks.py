"""Rules that span several settings, checked before any work is done."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from trialign.errors import ConfigError, suggest

if TYPE_CHECKING:
    from trialign.config.compose import Config


_STRATEGIES = ["single", "ddp", "fsdp2", "zero1", "zero2", "zero3", "zero3_offload"]


def check(config: Config) -> None:
    """Refuse settings that cannot work together.

    Raises:
        ConfigError: the first rule that is broken.
    """
    _known("evaluate.split", config.evaluate.split, ["validation", "test"])
    _known("report.split", config.report.split, ["validation", "test"])
    _known("data.split", config.data["split"], ["leave_one_out", "last_n", "temporal", "given"])
    _known("data.missing_items", config.data["missing_items"], ["refuse", "drop"])
    _known("data.repeated_events", config.data["repeated_events"], ["drop", "keep", "refuse"])
    _known("data.broken_images", config.data["broken_images"], ["refuse", "drop"])
    _known("runtime.strategy", config.runtime.strategy, _STRATEGIES)
    _known("runtime.on_spike", config.runtime.on_spike, ["stop", "rewind"])
    _known("stream.damaged", config.stream.damaged, ["stop", "skip"])
    _known("recommend.format", config.recommend.format, ["table", "json"])
    _known("evaluate.generator", config.evaluate.generator, ["train", "rl"])
    _known("rl.objective", config.rl.objective, ["grpo", "sft"])
    _known("rl.sampler", config.rl.sampler, ["distinct", "beams"])
    _known("assign.policy", config.assign.policy, ["reassign", "suffix"])
    _known("assign.unhealthy", config.assign.unhealthy, ["warn", "refuse"])
    _recommend(config)
    _grown(config)
    _train(config)
    _tasks(config)
    _clip(config)
    _enrich(config)
    _embed(config)
    _positive(config)
    share = config.data["max_bad_events"]
    if not 0 <= share <= 1:
        raise ConfigError(f"data.max_bad_events={share}", rule="a share", remedy="set data.max_bad_events=0.001")
    if not 0 <= config.assign.max_moved <= 1:
        raise ConfigError(
            f"assign.max_moved={config.assign.max_moved}", rule="a share", remedy="set assign.max_moved=0.25"
        )
    world_size = config.runtime.nodes * config.runtime.devices
    rows = config.runtime.micro_rows * world_size
    if config.stream.lanes % rows:
        nearest = max(rows, round(config.stream.lanes / rows) * rows)
        share = math.gcd(config.stream.lanes // world_size, config.runtime.micro_rows)
        fewer = "" if config.stream.lanes % world_size else f"runtime.micro_rows={share}, or "
        raise ConfigError(
            f"stream.lanes={config.stream.lanes} with {world_size} ranks (runtime.nodes x runtime.devices) x "
            f"runtime.micro_rows={config.runtime.micro_rows}",
            rule=f"lanes is a multiple of ranks x micro_rows = {rows}",
            remedy=f"set {fewer}stream.lanes={nearest}, which is another training",
        )
    if config.evaluate.num_beams < 50:
        raise ConfigError(
            f"evaluate.num_beams={config.evaluate.num_beams}",
            rule="recall@50 is read from at least 50 beams",
            remedy="set evaluate.num_beams=50 or more",
        )


def check_pipeline(config: Config, verbs: Collection[str]) -> None:
    """Refuse settings with which one of a pipeline's stages cannot work, before another has.

    Args:
        config: the composed config.
        verbs: the stages of the pipeline.

    Raises:
        ConfigError: the first rule that is broken.
    """
    if config.enrich.shard is not None:
        raise ConfigError(
            f"enrich.shard={config.enrich.shard} in a pipeline",
            rule="a process that asks about one share of the catalogue does not finish the stage that others read",
            remedy="run `trialign enrich` for every share, then the pipeline without enrich.shard",
        )
    # A generator, or a train stage, of another run was made by settings of its own.
    if {"train", "rl"} <= set(verbs).difference(config.from_stage) and not config.train.keep_back:
        raise ConfigError(
            "train.keep_back=0 in a pipeline with reinforcement learning",
            rule="it learns from positions that supervised training kept back",
            remedy="set train.keep_back=0.2, or leave rl out with evaluate.generator=train",
        )


def _recommend(config: Config) -> None:
    wanted = config.recommend
    if wanted.user is not None and wanted.items:
        raise ConfigError(
            f"recommend.user={wanted.user} and recommend.items={wanted.items}",
            rule="either a user of the logs or a list of items",
            remedy="leave one of the two out",
        )
    if wanted.k > wanted.num_beams:
        raise ConfigError(
            f"recommend.k={wanted.k} with recommend.num_beams={wanted.num_beams}",
            rule="a search returns at most as many items as it has beams",
            remedy=f"set recommend.num_beams={wanted.k}",
        )


def _grown(config: Config) -> None:
    if config.assign.index is not None and config.assign.extend is not None:
        raise ConfigError(
            f"assign.extend={config.assign.extend} with assign.index={config.assign.index}",
            rule="a table grows by the vectors of its items, and an index file replaces these",
            remedy="import the file into one run, and name that run with assign.extend in another",
        )


def _known(name: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value}", rule=f"{name} is a known choice", remedy=suggest(value, allowed))


def _train(config: Config) -> None:
    train = config.train
    _known("train.precision", train.precision, ["32-true", "bf16-mixed"])
    if not 0.0 <= train.keep_back < 1.0:
        raise ConfigError(
            f"train.keep_back={train.keep_back}",
            rule="a share of the positions is kept back, others are learned",
            remedy="set train.keep_back=0.2, or 0 to learn all of them",
        )
    if train.lora is not None and not hasattr(train.backbone, "model"):
        raise ConfigError(
            "train/lora=lora without train/backbone=pretrained",
            rule="adapters stand in a frozen backbone, and random weights are not worth freezing",
            remedy="set train/backbone=pretrained train.backbone.model=NAME-OR-FOLDER, or train/lora=none",
        )


def _tasks(config: Config) -> None:
    train = config.train
    _known("train.mixture", train.mixture, ["proportional", "temperature", "weights"])
    for name, weight in vars(train.tasks).items():
        if not 0 <= weight < math.inf:
            raise ConfigError(
                f"train.tasks.{name}={weight}",
                rule="a weight is a positive number, or 0 to leave the task out",
                remedy=f"set train.tasks.{name}=0",
            )
    brought = {"enrich", "train"} & set(config.from_stage)
    if train.tasks.read_captions and config.enrich.captions is None and not brought:
        raise ConfigError(
            "train.tasks holds a task with captions, but enrich/captions=none",
            rule="captions are made, or brought in, by the enrich stage",
            remedy="set enrich/captions=builtin enrich/clip=storefront, or from.enrich=DIR",
        )
    if train.temperature <= 0 or (train.temperature != 1 and train.mixture != "temperature"):
        raise ConfigError(
            f"train.temperature={train.temperature} with train.mixture={train.mixture}",
            rule="a temperature is positive, and 1 but for the mixture of that name",
            remedy="set train.mixture=temperature train.temperature=2, or leave it at 1",
        )


def _clip(config: Config) -> None:
    clip = config.enrich.clip
    if clip is None:
        return
    _known("enrich.clip.pairs", clip.pairs, ["catalogue", "storefront"])
    if not 0.0 < clip.held_out < 1.0:
        raise ConfigError(
            f"enrich.clip.held_out={clip.held_out}",
            rule="some pairs are trained on, others judge",
            remedy="set enrich.clip.held_out=0.1",
        )


def _enrich(config: Config) -> None:
    enrich = config.enrich
    if enrich.clip is None and str(getattr(enrich.captions, "_target_", "")).endswith("TagCaptions"):
        raise ConfigError(
            "enrich/captions=builtin without enrich/clip",
            rule="builtin captions are what the small CLIP sees",
            remedy="add enrich/clip=storefront in the storefront, enrich/clip=catalogue elsewhere",
        )
    if enrich.captions_dealt is not None and enrich.captions is None:
        raise ConfigError(
            f"enrich.captions_dealt={enrich.captions_dealt} with enrich/captions=none",
            rule="captions that are dealt among the items are made first",
            remedy="choose enrich/captions=builtin or another, or leave enrich.captions_dealt out",
        )
    if hasattr(enrich.interests, "variant"):
        _known("enrich.interests.variant", enrich.interests.variant, ["direct", "cot"])
    if enrich.shard is None:
        return
    if not 0 <= enrich.shard < enrich.shards:
        raise ConfigError(
            f"enrich.shard={enrich.shard} of enrich.shards={enrich.shards}",
            rule="shards are counted from 0",
            remedy=f"set enrich.shard between 0 and {enrich.shards - 1}",
        )
    if not all(chosen is None or hasattr(chosen, "retries") for chosen in (enrich.captions, enrich.interests)):
        raise ConfigError(
            f"enrich.shard={enrich.shard} with a builtin or catalogue choice",
            rule="only questions to a model are spread over processes",
            remedy="leave enrich.shard out, or choose transformers or endpoint",
        )


def _embed(config: Config) -> None:
    evidence = config.embed["evidence"]
    for name in evidence:
        _known("embed.evidence", name, ["title", "description", "brand", "categories", "caption", "interests"])
    if not evidence or len(set(evidence)) < len(evidence):
        raise ConfigError(
            f"embed.evidence={evidence}",
            rule="an item's text is made of something, and of nothing twice",
            remedy="set 'embed.evidence=[title,description,brand,categories]'",
        )
    least = config.embed["least_chance"]
    if not 0.0 <= least < 1.0 or (least and "interests" not in evidence and not config.embed["interests"]):
        raise ConfigError(
            f"embed.least_chance={least}",
            rule="a chance from 0 to below 1, by which interests are left out that are embedded otherwise",
            remedy="set embed.least_chance=0, or add interests to embed.evidence",
        )
    if config.embed["interests"] and config.embed["text"] is None:
        raise ConfigError(
            "embed.interests=true with embed/text=none",
            rule="interests are embedded by the encoder of the texts",
            remedy="choose embed/text=tfidf or another, or set embed.interests=false",
        )
    prior = (config.embed["collaborative"] or {}).get("text_prior", 0.0)
    if prior < 0.0 or (prior and config.embed["text"] is None):
        raise ConfigError(
            f"embed.collaborative.text_prior={prior}"
            + (" with embed/text=none" if config.embed["text"] is None else ""),
            rule="0 or more events, and above 0 there are texts to lean on",
            remedy="choose embed/collaborative=ppmi, or embed/text=tfidf or another",
        )


def _positive(config: Config) -> None:
    sizes = {
        "data.max_history": (config.data["max_history"], 2),
        "data.min_events": (config.data["min_events"], 3),
        "data.last_n": (config.data["last_n"], 1),
        "data.user_core": (config.data["user_core"], 0),
        "data.item_core": (config.data["item_core"], 0),
        "data.core_rounds": (config.data["core_rounds"], 1),
        "data.threads": (config.data["threads"] or 1, 1),
        "data.block_records": (config.data["block_records"], 1),
        "data.shard_blocks": (config.data["shard_blocks"], 1),
        "data.images_per_shard": (config.data["images_per_shard"], 1),
        "data.max_pixels": (config.data["max_pixels"], 1),
        "quantize.num_levels": (config.quantize["num_levels"], 1),
        "quantize.codebook_size": (config.quantize["codebook_size"], 2),
        "stream.lanes": (config.stream.lanes, 1),
        "stream.row_tokens": (config.stream.row_tokens, 8),
        "stream.window": (config.stream.window, 1),
        "stream.workers": (config.stream.workers, 0),
        "stream.prefetch": (config.stream.prefetch, 1),
        "train.max_title_tokens": (config.train.max_title_tokens, 1),
        "train.max_caption_tokens": (config.train.max_caption_tokens, 1),
        "train.validation.every": (config.train.validation.every, 0),
        "train.validation.users": (config.train.validation.users, 0),
        "train.validation.num_beams": (config.train.validation.num_beams, 10),
        "train.validation.patience": (config.train.validation.patience, 0),
        "train.validation.batch_size": (config.train.validation.batch_size, 1),
        "rl.group": (config.rl.group, 2),
        "rl.prompts": (config.rl.prompts, 1),
        "rl.uses": (config.rl.uses, 1),
        "rl.steps": (config.rl.steps, 1),
        "rl.validation.every": (config.rl.validation.every, 1),
        "rl.validation.num_beams": (config.rl.validation.num_beams, 50),
        "runtime.devices": (config.runtime.devices, 1),
        "runtime.nodes": (config.runtime.nodes, 1),
        "runtime.spike": (config.runtime.spike, 0),
        "runtime.threads": (config.runtime.threads or 1, 1),
        "runtime.micro_rows": (config.runtime.micro_rows, 1),
        "recommend.k": (config.recommend.k, 1),
        "evaluate.users": (1 if config.evaluate.users is None else config.evaluate.users, 1),
        "evaluate.understanding.items": (config.evaluate.understanding.items, 0),
        "evaluate.batch_size": (config.evaluate.batch_size, 1),
        "evaluate.bootstrap_samples": (config.evaluate.bootstrap_samples, 100),
    }
    if (clip := config.enrich.clip) is not None:
        sizes |= {
            "enrich.clip.num_pairs": (clip.num_pairs, 2),
            "enrich.clip.num_epochs": (clip.num_epochs, 1),
            "enrich.clip.batch_size": (clip.batch_size, 2),
        }
    if (lora := config.train.lora) is not None:
        sizes["train.lora.rank"] = (lora.rank, 1)
    for name, (value, least) in sizes.items():
        if value < least:
            raise ConfigError(
                f"{name}={value}", rule=f"{name} is at least {least}", remedy=f"set {name}={least} or more"
            )
    buckets = config.data["buckets"]
    if buckets < 1 or 16 ** round(len(f"{buckets - 1:x}") if buckets > 1 else 0) != buckets:
        raise ConfigError(
            f"data.buckets={buckets}", rule="users are spread by leading hex digits", remedy="set 1, 16, 256 or 4096"
        )
