"""LoRA adapters in a frozen backbone (Hu et al. 2021), with peft; they are merged before the generator is saved."""

from __future__ import annotations

import torch
from torch import nn

from trialign.config.train import LoraConfig
from trialign.errors import ConfigError
from trialign.runtime.seeding import derive
from trialign.runtime.transformers import Conv1D, PreTrainedModel


def add_adapters(backbone: PreTrainedModel, settings: LoraConfig, *, seed: int) -> None:
    """Freeze a backbone, its text embeddings included, and add LoRA adapters, initially zero, to its linear layers.

    Args:
        backbone: changed in place.
        settings: rank, scale, dropout and the layers that get adapters.
        seed: of the first weights.

    Raises:
        ConfigError: a target is not a linear layer of this backbone.
    """
    import peft

    known = sorted(
        {name.rsplit(".", 1)[-1] for name, found in backbone.base_model.named_modules() if isinstance(found, _LINEAR)}
    )
    if unknown := sorted(set(settings.targets) - set(known)):
        raise ConfigError(
            f"train.lora.targets names {', '.join(unknown)}",
            rule="adapters are next to linear layers that the backbone has",
            remedy=f"{backbone.config.model_type} has: {', '.join(known)}; an empty list takes all of them",
        )
    transposed = any(isinstance(found, Conv1D) for found in backbone.base_model.modules())
    added = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft's own default is a whole number, others work
        lora_dropout=settings.dropout,
        target_modules=settings.targets or known,
        fan_in_fan_out=transposed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapters"))
        peft.inject_adapter_in_model(added, backbone.base_model)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad = "lora_" in name


def merge_adapters(backbone: PreTrainedModel) -> None:
    """Merge the adapters into the weights and remove them; do nothing if there are none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, found) for name, found in backbone.named_modules() if isinstance(found, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, own_name = name.rpartition(".")
        setattr(backbone.get_submodule(parent), own_name, layer.get_base_layer())


_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)
