"""How ranks share the work, by name: one process, data parallel, or DeepSpeed's ZeRO stages 1 and 2.

DeepSpeed trains on CPU ranks too, so that what runs on a cluster can be tested on a laptop.
"""

from __future__ import annotations

import os
from typing import Any

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from torch.optim import Optimizer

from trialign.errors import ConfigError, suggest

STRATEGIES = ("single", "ddp", "zero1", "zero2")


def build_strategy(name: str, *, devices: int, on_cpu: bool) -> Strategy | str:
    """Return what Lightning takes as its strategy.

    Args:
        name: one of STRATEGIES.
        devices: processes on all nodes.
        on_cpu: train on CPU ranks.

    Raises:
        ConfigError: the name is unknown, or `single` is asked for more than one process.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"runtime.strategy={name}", rule="a strategy that exists", remedy=suggest(name, STRATEGIES))
    if name == "single":
        if devices != 1:
            raise ConfigError(
                f"runtime.strategy=single with runtime.devices={devices}",
                rule="`single` is one process",
                remedy="set runtime.strategy=ddp, or runtime.devices=1",
            )
        return "auto"
    if name == "ddp":
        return DDPStrategy(process_group_backend="gloo" if on_cpu else "nccl")
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
    # A number, as "auto" would build the loader before a checkpoint has said where the stream stands.
    return ZeroStrategy(stage=int(name[-1]), logging_batch_size_per_gpu=1)


class ZeroStrategy(DeepSpeedStrategy):
    """DeepSpeed as Lightning drives it, on CUDA or on CPU, with gradients averaged once.

    The parent refuses an accelerator that is not CUDA, then wants a device with an index, which a CPU has not.
    """

    _starting = False

    def setup_environment(self) -> None:
        """Start the ranks; on CPU without compiling DeepSpeed's shared-memory collectives, gloo does."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
            return
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Meet the other ranks."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def backward(
        self, closure_loss: torch.Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Run the engine's backward pass; Lightning has divided by the accumulation already, the engine must not."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def teardown(self) -> None:
        """Give every parameter memory of its own again; DeepSpeed leaves views of one flat buffer."""
        super().teardown()
        if self.lightning_module is not None:
            for parameter in self.lightning_module.parameters():
                parameter.data = parameter.data.clone()

    @property
    def root_device(self) -> torch.device:
        """This rank's device; while DeepSpeed starts on CPU, with the index that it wants to see."""
        device = super().root_device
        return torch.device("cpu", self.local_rank) if self._starting and device.type == "cpu" else device

    def _setup_model_and_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self._starting = True
        try:
            return super()._setup_model_and_optimizer(*args, **kwargs)
        finally:
            self._starting = False
