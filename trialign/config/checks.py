"""Rules that span several settings, checked before any work is done."""

from __future__ import annotations

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
    _known("data.broken_images", config.data["broken_images"], ["refuse", "drop"])
    _known("runtime.strategy", config.runtime.strategy, _STRATEGIES)
    _known("runtime.on_spike", config.runtime.on_spike, ["stop", "rewind"])
    _known("stream.damaged", config.stream.damaged, ["stop", "skip"])
    _known("assign.policy", config.assign.policy, ["reassign", "suffix"])
    _grown(config)
    _train(config)
    _clip(config)
    _positive(config)
    rows = config.runtime.micro_rows * config.runtime.devices
    if config.stream.lanes % rows:
        nearest = max(rows, round(config.stream.lanes / rows) * rows)
        raise ConfigError(
            f"stream.lanes={config.stream.lanes} with runtime.devices={config.runtime.devices} x "
            f"runtime.micro_rows={config.runtime.micro_rows}",
            rule=f"lanes is a multiple of devices x micro_rows = {rows}",
            remedy=f"set stream.lanes={nearest}, or a micro_rows that divides {config.stream.lanes}",
        )
    if config.evaluate.num_beams < 50:
        raise ConfigError(
            f"evaluate.num_beams={config.evaluate.num_beams}",
            rule="recall@50 is read from at least 50 beams",
            remedy="set evaluate.num_beams=50 or more",
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
    if train.lora is not None and not hasattr(train.backbone, "model"):
        raise ConfigError(
            "train/lora=lora without train/backbone=pretrained",
            rule="adapters stand in a frozen backbone, and random weights are not worth freezing",
            remedy="set train/backbone=pretrained train.backbone.model=NAME-OR-FOLDER, or train/lora=none",
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
        "train.validation.every": (config.train.validation.every, 0),
        "train.validation.users": (config.train.validation.users, 0),
        "train.validation.num_beams": (config.train.validation.num_beams, 10),
        "train.validation.patience": (config.train.validation.patience, 0),
        "train.validation.batch_size": (config.train.validation.batch_size, 1),
        "runtime.devices": (config.runtime.devices, 1),
        "runtime.spike": (config.runtime.spike, 0),
        "runtime.threads": (config.runtime.threads or 1, 1),
        "runtime.micro_rows": (config.runtime.micro_rows, 1),
        "recommend.k": (config.recommend.k, 1),
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
