"""Low-rank adapters in a frozen backbone (Hu et al. 2021, "LoRA"), by peft, merged before anything is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import trialign.runtime.torchvision_fault  # noqa: F401  (before peft)
from trialign.errors import ConfigError
from trialign.runtime.seeding import derive


def add_adapters(
    backbone: PreTrainedModel, *, rank: int, alpha: float, dropout: float, targets: Sequence[str], seed: int
) -> None:
    """Freeze a backbone, its text rows included, and put adapters beside its linear layers; they start at no change.

    Args:
        backbone: changed in place.
        rank: of every update.
        alpha: updates are scaled by alpha / rank.
        dropout: on what the adapters read.
        targets: linear layers by the last part of their name; empty: all of them.
        seed: of the first weights.

    Raises:
        ConfigError: a target is no linear layer of this backbone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    known = sorted(
        {name.rsplit(".", 1)[-1] for name, found in backbone.base_model.named_modules() if isinstance(found, _LINEAR)}
    )
    if unknown := sorted(set(targets) - set(known)):
        raise ConfigError(
            f"train.lora.targets names {', '.join(unknown)}",
            rule="adapters stand beside linear layers that the backbone has",
            remedy=f"{backbone.config.model_type} has: {', '.join(known)}; an empty list takes all of them",
        )
    chosen = list(targets or known)
    transposed = any(isinstance(found, Conv1D) for found in backbone.base_model.modules())
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    settings = LoraConfig(**options, target_modules=chosen, fan_in_fan_out=transposed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapters"))
        inject_adapter_in_model(settings, backbone.base_model)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad = "lora_" in name


def merge_adapters(backbone: PreTrainedModel) -> None:
    """Add what the adapters learned to the weights beside them and take the adapters out; nothing where none are."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, found) for name, found in backbone.named_modules() if isinstance(found, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, own_name = name.rpartition(".")
        setattr(backbone.get_submodule(parent), own_name, layer.get_base_layer())


_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)
