"""Which device inference runs on."""

from __future__ import annotations

import torch

from trialign.errors import ConfigError


def device_of(accelerator: str) -> torch.device:
    """Return the device behind `runtime.accelerator`: `cpu`, `cuda`, or the best one there is for `auto`.

    Raises:
        ConfigError: CUDA is asked for and not there, or the name is unknown.
    """
    if accelerator not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"runtime.accelerator={accelerator}",
            rule="auto, cpu or cuda",
            remedy="leave it at auto to take what is there",
        )
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.accelerator=cuda, but torch sees no CUDA device",
            rule="an accelerator that is asked for is there",
            remedy="set runtime.accelerator=auto, or install a CUDA build of torch and check nvidia-smi",
        )
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
