"""Which device inference runs on, and which precision it has."""

from __future__ import annotations

import logging

import torch

from trialign.errors import ConfigError

log = logging.getLogger(__name__)


def device_of(accelerator: str) -> torch.device:
    """Return the device behind `runtime.accelerator`: `cpu`, `cuda`, or the best one there is for `auto`.

    Raises:
        ConfigError: CUDA is asked for and not there.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.accelerator=cuda, but torch sees no CUDA device",
            rule="an accelerator that is asked for is there",
            remedy="set runtime.accelerator=auto, or install a CUDA build of torch and check nvidia-smi",
        )
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def require_precision(precision: str, device: torch.device) -> None:
    """Refuse `bf16-mixed` on a GPU without bfloat16, and warn if a CPU would only emulate it.

    Raises:
        ConfigError: the GPU has none.
    """
    if precision != "bf16-mixed":
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"train.precision={precision} on {torch.cuda.get_device_name(device)}",
            rule="the device multiplies in bfloat16",
            remedy="set train.precision=32-true",
        )
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        log.warning("train.precision=%s on a CPU without AVX-512 bfloat16 may be slower than 32-true", precision)
