"""Estimate a training before it is queued: parameters, memory per rank, steps, hours, disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trialign.config.config import Config
from trialign.config.stages import locate_stage, needed_by
from trialign.config.train import ConfigFileConfig, PretrainedConfig, ScratchConfig
from trialign.errors import ConfigError
from trialign.manifest import MANIFEST
from trialign.progress import count_of

GIB = 2**30
_KEPT = 3
"""Checkpoints on disk at once: two kept, one being written."""


@dataclass(frozen=True)
class Size:
    """The size of a training, as far as it is known.

    Attributes:
        parameters: of the generator; of its backbone with all of `vocab_size` and of its codes while the dataset is not
            made, or where it reads features of the items.
        steps: None while it follows from a dataset that is not made.
    """

    parameters: int
    steps: int | None


def state_bytes(strategy: str, world_size: int) -> float:
    """Return the bytes per parameter and rank of weights, gradients and AdamW's two moments, all in float32.

    ddp holds gradients twice (its buckets); ZeRO 1 and 2 hold this rank's part of the weights once more.
    """
    whole, part = {
        "single": (16, 0),
        "ddp": (20, 0),
        "zero1": (8, 12),
        "zero2": (4, 16),
        "zero3": (0, 16),
        "zero3_offload": (0, 4),
        "fsdp2": (0, 16),
    }[strategy]
    return whole + part / world_size


def estimate(config: Config) -> list[str]:
    """Return the estimate of a training as lines for the terminal.

    Raises:
        ConfigError: the state of the training alone exceeds a GPU's memory.
    """
    runtime, stream, cluster = config.runtime, config.stream, config.cluster
    world_size = runtime.nodes * runtime.devices
    size = _size(config)
    state = size.parameters * state_bytes(runtime.strategy, world_size) / GIB
    positions = stream.global_batch_size * stream.seq_len
    lines = [
        f"{size.parameters:,} parameters; {runtime.strategy} on {runtime.nodes} x {runtime.devices} ranks: "
        f"{state:.2f} GiB per rank for weights, gradients and optimizer; activations of "
        f"{runtime.micro_batch_size} rows of {stream.seq_len} come on top",
        _time(size.steps, positions, cluster.tokens_per_second, world_size),
        _disk(size.parameters, config.run),
    ]
    room = cluster.gpu_memory_gib
    if room is not None and state > room and runtime.accelerator != "cpu":
        raise ConfigError(
            f"runtime.strategy={runtime.strategy} needs {state:.1f} GiB per rank for its state alone, "
            f"a GPU has {room:g} (cluster.gpu_memory_gib)",
            rule="weights, gradients and optimizer fit the memory of a GPU",
            remedy="set runtime.strategy=zero3 or more ranks, or train adapters (train/lora=lora)",
        )
    return lines


def _size(config: Config) -> Size:
    made = all((locate_stage(config, verb) / MANIFEST).exists() for verb in needed_by("train", config))
    if made:
        return _from_dataset(config)
    with torch.device("meta"):
        parameters = _backbone_parameters(config)
    return Size(parameters, config.train.steps)


def _from_dataset(config: Config) -> Size:
    from trialign.generate.build import load_training_data, prepare_training

    data = load_training_data({verb: locate_stage(config, verb) for verb in needed_by("train", config)})
    stream = replace(config.stream, sample_log=False)
    # As `train` does, but for the memory: a login node has none to spare for a decoder of gigabytes.
    made = prepare_training(data, config.run, config.train, stream, config.runtime, seed=config.seed, weights=False)
    return Size(sum(parameter.numel() for parameter in made.generator.parameters()), made.num_steps)


def _backbone_parameters(config: Config) -> int:
    """Count a backbone's parameters without memory for them, and add the vectors of the codes."""
    from trialign.generate.backbone import ARCHITECTURES
    from trialign.runtime.transformers import AutoConfig, AutoModelForCausalLM

    backbone = config.train.backbone
    if isinstance(backbone, ScratchConfig):
        sizes = ARCHITECTURES[backbone.architecture](backbone, config.stream.seq_len)
        vocab = {"vocab_size": backbone.vocab_size, "tie_word_embeddings": True}
        described = AutoConfig.for_model(backbone.architecture, **vocab, **sizes)
    else:
        assert isinstance(backbone, ConfigFileConfig | PretrainedConfig)
        source = backbone.file if isinstance(backbone, ConfigFileConfig) else backbone.model
        described = AutoConfig.from_pretrained(source)
    model = AutoModelForCausalLM.from_config(described)
    codes = config.quantize.num_levels * config.quantize.codebook_size
    width: int = model.get_input_embeddings().weight.shape[1]
    return int(sum(parameter.numel() for parameter in model.parameters())) + codes * width


def _time(steps: int | None, positions: int, rate: float | None, world_size: int) -> str:
    if steps is None:
        return "steps: train.epochs is converted once the dataset is made"
    told = f"{count_of(steps, 'step')} of {positions:,} positions"
    if rate is None:
        return f"{told}; hours are not known without a measured cluster.tokens_per_second"
    return f"{told}: {steps * positions / (rate * world_size) / 3600:.1f} hours at {rate:,.0f} a second and rank"


def _disk(parameters: int, run: Path) -> str:
    """Return the disk space of a training: weights and moments per checkpoint, then the final and the best weights."""
    need = parameters * (12 * _KEPT + 8) / GIB
    there = next(folder for folder in (run, *run.parents) if folder.exists())
    free = shutil.disk_usage(there).free / GIB
    return f"{need:.2f} GiB of disk at most, {free:.0f} free at {there}" + ("; NOT ENOUGH" if need > free else "")
