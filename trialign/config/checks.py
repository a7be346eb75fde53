"""Rules between several settings of a config, checked before any work starts."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from trialign.config.embed import PpmiConfig
from trialign.config.enrich import AnnotatorConfig, annotator_of
from trialign.config.train import PretrainedConfig
from trialign.errors import ConfigError

if TYPE_CHECKING:
    from trialign.config.config import Config


_MEMORY = re.compile(r"\d+(\.\d+)? ?[KMGT](i?B)?", re.IGNORECASE)


def check(config: Config) -> None:
    """Refuse settings that cannot work together.

    Raises:
        ConfigError: the first rule that is broken.
    """
    _recommend(config)
    _grown(config)
    _train(config)
    _tasks(config)
    _enrich(config)
    _embed(config)
    _data(config)
    _optimizers(config)
    _lanes(config)


def check_pipeline(config: Config, verbs: Collection[str]) -> None:
    """Refuse settings with which one stage of a pipeline would fail, before any stage starts.

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
    # A generator or train stage of another run was made with that run's settings.
    if {"train", "rl"} <= set(verbs).difference(config.from_stage) and not config.train.rl_holdout:
        raise ConfigError(
            "train.rl_holdout=0 in a pipeline with reinforcement learning",
            rule="it learns from positions that supervised training held out",
            remedy="set train.rl_holdout=0.2, or leave rl out with evaluate.generator=train",
        )


def _recommend(config: Config) -> None:
    wanted = config.recommend
    for_whom = {"user": wanted.user, "items": wanted.items or None, "users": wanted.users}
    given = [f"recommend.{name}={value}" for name, value in for_whom.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(
            " and ".join(given),
            rule="either a user of the logs, or a list of items, or many users",
            remedy="leave all but one out",
        )
    if wanted.shard is not None and wanted.shard >= wanted.shards:
        raise ConfigError(
            f"recommend.shard={wanted.shard} of recommend.shards={wanted.shards}",
            rule="shards are counted from 0",
            remedy=f"set recommend.shard between 0 and {wanted.shards - 1}",
        )
    if wanted.shard is not None and config.rebuild:
        raise ConfigError(
            f"rebuild=true with recommend.shard={wanted.shard}",
            rule="a shard does not clear what the other shards write",
            remedy=f"delete {wanted.output} and leave rebuild=true out",
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


def _train(config: Config) -> None:
    train = config.train
    if train.lora is not None and not isinstance(train.backbone, PretrainedConfig):
        raise ConfigError(
            "train/lora=lora without train/backbone=pretrained",
            rule="adapters are in a frozen backbone, and random weights are not worth freezing",
            remedy="set train/backbone=pretrained train.backbone.model=NAME-OR-FOLDER, or train/lora=none",
        )


def _tasks(config: Config) -> None:
    train = config.train
    brought = {"enrich", "train"} & set(config.from_stage)
    made = {"caption": config.enrich.captions, "interests": config.enrich.interests}
    builtin = {"caption": "captions=builtin enrich/clip=storefront", "interests": "interests=builtin"}
    if missing := [field for field in train.tasks.enriched if made[field] is None and not brought]:
        groups = [builtin[field].split("=")[0] for field in missing]
        raise ConfigError(
            f"train.tasks holds a task with {' and '.join(groups)}, but enrich/{groups[0]}=none",
            rule="captions and interests are made, or brought in, by the enrich stage",
            remedy=f"set {' '.join(f'enrich/{builtin[field]}' for field in missing)}, or from.enrich=DIR",
        )
    if train.temperature != 1 and train.mixture != "temperature":
        raise ConfigError(
            f"train.temperature={train.temperature} with train.mixture={train.mixture}",
            rule="a temperature is 1 but for the mixture of that name",
            remedy="set train.mixture=temperature train.temperature=2, or leave it at 1",
        )


def _enrich(config: Config) -> None:
    enrich = config.enrich
    if enrich.clip is None and enrich.captions and enrich.captions._target_.endswith("TagCaptions"):
        raise ConfigError(
            "enrich/captions=builtin without enrich/clip",
            rule="builtin captions are what the small CLIP sees",
            remedy="add enrich/clip=storefront in the storefront, enrich/clip=catalogue elsewhere",
        )
    if enrich.shuffle_captions is not None and enrich.captions is None:
        raise ConfigError(
            f"enrich.shuffle_captions={enrich.shuffle_captions} with enrich/captions=none",
            rule="captions that are dealt among the items are made first",
            remedy="choose enrich/captions=builtin or another, or leave enrich.shuffle_captions out",
        )
    if enrich.shard is None:
        return
    if enrich.shard >= enrich.shards:
        raise ConfigError(
            f"enrich.shard={enrich.shard} of enrich.shards={enrich.shards}",
            rule="shards are counted from 0",
            remedy=f"set enrich.shard between 0 and {enrich.shards - 1}",
        )
    made = [chosen for chosen in (enrich.captions, enrich.interests) if chosen is not None]
    if not all(annotator_of(chosen, AnnotatorConfig) for chosen in made):
        raise ConfigError(
            f"enrich.shard={enrich.shard} with a builtin or catalogue choice",
            rule="only questions to a model are spread over processes",
            remedy="leave enrich.shard out, or choose transformers or endpoint",
        )


def _embed(config: Config) -> None:
    embed = config.embed
    evidence = embed.evidence
    if not evidence or len(set(evidence)) < len(evidence):
        raise ConfigError(
            f"embed.evidence={evidence}",
            rule="an item's text is made of something, and of nothing twice",
            remedy="set 'embed.evidence=[title,description,brand,categories]'",
        )
    least = embed.min_probability
    if least and "interests" not in evidence and not embed.interests:
        raise ConfigError(
            f"embed.min_probability={least}",
            rule="it leaves out interests that are embedded otherwise",
            remedy="set embed.min_probability=0, or add interests to embed.evidence",
        )
    if embed.interests and embed.text is None:
        raise ConfigError(
            "embed.interests=true with embed/text=none",
            rule="interests are embedded by the encoder of the texts",
            remedy="choose embed/text=tfidf or another, or set embed.interests=false",
        )
    prior = embed.collaborative.text_prior if isinstance(embed.collaborative, PpmiConfig) else 0.0
    if prior and embed.text is None:
        raise ConfigError(
            f"embed.collaborative.text_prior={prior} with embed/text=none",
            rule="above 0 there are texts to lean on",
            remedy="choose embed/collaborative=ppmi, or embed/text=tfidf or another",
        )


def _data(config: Config) -> None:
    data = config.data
    if not _MEMORY.fullmatch(data.memory):
        raise ConfigError(
            f"data.memory={data.memory}",
            rule="a number and a unit: KB, MB, GB or TB, or KiB, MiB, GiB or TiB",
            remedy="set data.memory=2GB",
        )
    pairs = (("cut_times", data.cut_times, "[TIME,TIME]"), ("cut_shares", data.cut_shares, "[0.8,0.9]"))
    for name, cuts, example in pairs:
        if cuts is not None and (len(cuts) != 2 or not cuts[0] < cuts[1]):
            raise ConfigError(
                f"data.{name}={cuts}",
                rule="two values, the first below the second",
                remedy=f"set 'data.{name}={example}'",
            )


def _optimizers(config: Config) -> None:
    for name, betas in {"train.betas": config.train.betas, "rl.betas": config.rl.betas}.items():
        if len(betas) != 2:
            raise ConfigError(
                f"{name}={betas}",
                rule="AdamW has two, of the mean and of the square",
                remedy=f"set '{name}=[0.9,0.98]'",
            )


def _lanes(config: Config) -> None:
    world_size = config.runtime.nodes * config.runtime.devices
    rows = config.runtime.micro_batch_size * world_size
    if config.stream.global_batch_size % rows:
        nearest = max(rows, round(config.stream.global_batch_size / rows) * rows)
        share = math.gcd(config.stream.global_batch_size // world_size, config.runtime.micro_batch_size)
        fewer = "" if config.stream.global_batch_size % world_size else f"runtime.micro_batch_size={share}, or "
        raise ConfigError(
            f"stream.global_batch_size={config.stream.global_batch_size} with {world_size} ranks (runtime.nodes x "
            f"runtime.devices) x runtime.micro_batch_size={config.runtime.micro_batch_size}",
            rule=f"global_batch_size is a multiple of ranks x micro_batch_size = {rows}",
            remedy=f"set {fewer}stream.global_batch_size={nearest}, which is another training",
        )
