"""Build open_clip models, those of this package included, and save one in open_clip's format."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from trialign.errors import ConfigError, suggest
from trialign.runtime.seeding import derive
from trialign.runtime.torchvision_fault import repair_torchvision

_CONFIGS = Path(__file__).with_name("configs")
_WITH_WEIGHTS = ("hf-hub:", "local-dir:")

Preprocess = Callable[[Image.Image], torch.Tensor]


def build(model: str, checkpoint: str | None, seed: int, setting: str) -> tuple[Any, Preprocess]:
    """Return an open_clip model and its picture preprocessing.

    Args:
        model: a file of `configs/`, a name open_clip knows, or `local-dir:PATH` / `hf-hub:NAME`, which bring their own
            weights.
        checkpoint: a file of weights or a tag open_clip knows; None for random weights.
        seed: of random weights.
        setting: where the model is configured, e.g. `embed.image`; names the stream of randomness too.

    Raises:
        ConfigError: there is no such model, or its weights cannot be loaded.
    """
    repair_torchvision()
    import open_clip  # takes seconds to import

    open_clip.add_model_config(_CONFIGS)
    logging.getLogger().addFilter(_is_not_said_elsewhere)
    if not model.startswith(_WITH_WEIGHTS) and model not in open_clip.list_models():
        raise ConfigError(
            f"{setting}.model={model}",
            rule="the model is one that open_clip can build",
            remedy=suggest(model, open_clip.list_models()),
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *setting.split(".")))
        try:
            built, _, preprocess = open_clip.create_model_and_transforms(
                model, pretrained=checkpoint, require_pretrained=brings_weights(model, checkpoint)
            )
        except (OSError, RuntimeError, ValueError) as cause:
            raise ConfigError(
                f"open_clip cannot load {model}" + (f" with {checkpoint}" if checkpoint else "") + f": {cause}",
                rule="weights are a file that fits the model, a tag open_clip knows, a folder with "
                "open_clip_config.json and weights, or a name on the hub that can be reached or is in its cache",
                remedy=f"set {setting}.checkpoint=FILE or {setting}.model=local-dir:DIR; without network fetch it "
                "beforehand where there is one",
            ) from cause
    return built, preprocess


def brings_weights(model: str, checkpoint: str | None) -> bool:
    """Return whether `build` loads weights rather than drawing them."""
    return checkpoint is not None or model.startswith(_WITH_WEIGHTS)


def tokenizer_of(model: str) -> Callable[[list[str]], torch.Tensor]:
    """Return the model's tokenizer, which pads or cuts texts to the context length."""
    repair_torchvision()
    import open_clip

    found: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(model)
    return found


def save(built: Any, model: str, folder: Path) -> None:
    """Write a model to a folder that open_clip opens as `local-dir:FOLDER`.

    Args:
        built: a model of `build`.
        model: the name it was built by.
        folder: made if missing.
    """
    repair_torchvision()
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "model_cfg": open_clip.get_model_config(model),
        "preprocess_cfg": open_clip.get_model_preprocess_cfg(built),
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in built.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def _is_not_said_elsewhere(record: logging.LogRecord) -> bool:
    """Filter out open_clip's warning of random weights, because the caller reports them with the seed."""
    return "No pretrained weights loaded" not in record.getMessage()
