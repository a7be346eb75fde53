"""How ranks share the work, by name: one process, data parallel, torch's FSDP2, or DeepSpeed's ZeRO stages 1 to 3.

All of them train on CPU ranks too, so that what runs on a cluster can be tested on a laptop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from trialign.errors import ConfigError
from trialign.runtime.lightning import (
    CUDAAccelerator,
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    Strategy,
    reset_seed,
)

LEAST_CUT = 100_000
"""ZeRO-3 leaves smaller parameters whole on every rank: norms and biases, which cost more to gather than to hold."""


def build_strategy(
    name: str, *, devices: int, on_cpu: bool, bf16: bool = False, universal: bool = False
) -> Strategy | str:
    """Return the strategy of Lightning's Trainer.

    Args:
        name: `runtime.strategy`.
        devices: processes on all nodes.
        on_cpu: train on CPU ranks.
        bf16: ZeRO is to multiply in bfloat16; the other strategies leave that to Lightning.
        universal: ZeRO is to load a checkpoint in its universal format.

    Raises:
        ConfigError: `single` is asked for more than one process.
    """
    backend = "gloo" if on_cpu else "nccl"
    if name == "single":
        if devices != 1:
            raise ConfigError(
                f"runtime.strategy=single with runtime.devices={devices}",
                rule="`single` is one process",
                remedy="set runtime.strategy=ddp, or runtime.devices=1",
            )
        return "auto"
    if name == "ddp":
        return DDPStrategy(process_group_backend=backend)
    if name == "fsdp2":
        return FullyShardedStrategy(process_group_backend=backend)
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
    return ZeroStrategy(int(name[4]), offload=name.endswith("_offload"), bf16=bf16, universal=universal)


def shards_parameters(strategy: Strategy) -> bool:
    """Return whether a rank holds only its part of every parameter."""
    return isinstance(strategy, FullyShardedStrategy) or (isinstance(strategy, ZeroStrategy) and strategy.zero_stage_3)


def fully_shard_all(layers: Iterable[nn.Module], root: nn.Module, mesh: DeviceMesh, *, ways: Iterable[str]) -> None:
    """Shard a module by FSDP2: each of `layers` is gathered on its own, all other parameters with the root.

    `ways` are the root's methods, besides `forward`, that training calls; FSDP2 gathers the root's
    parameters for them too.
    """
    for module in (*layers, root):
        fully_shard(module, mesh=mesh["data_parallel"])
    for method in ways:
        register_fsdp_forward_method(root, method)


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2: torch's `fully_shard` shards parameters, gradients and optimizer state over all ranks.

    The module shards itself in `configure_model`. Checkpoints are torch's distributed ones, which any number of ranks
    reads.
    """

    def setup_environment(self) -> None:
        """Start the ranks, and shard over all of them: their number is known only now."""
        self._tensor_parallel_size = 1
        assert self.cluster_environment is not None
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class ZeroStrategy(DeepSpeedStrategy):
    """DeepSpeed's ZeRO through Lightning, on CUDA or on CPU, with gradients averaged once.

    The parent refuses an accelerator that is not CUDA, then requires a device index, which a CPU does not have.

    Args:
        stage: 1 shards the optimizer state, 2 the gradients too, 3 the parameters too.
        offload: for stage 3: sharded tensors are kept in CPU memory.
        bf16: products in bfloat16, everything that is kept in float32, as under every other strategy. What DeepSpeed
            and Lightning call bf16 rounds the parameters themselves.
        universal: load a checkpoint in the universal format.
    """

    _starting = False

    def __init__(self, stage: int, *, offload: bool, bf16: bool, universal: bool) -> None:
        # A number, as "auto" would build the loader before a checkpoint has said where the stream is.
        super().__init__(
            stage=stage, offload_optimizer=offload, offload_parameters=offload, logging_batch_size_per_gpu=1
        )
        assert self.config is not None
        # DeepSpeed's own Adam for offloading compiles on first use (a minute); torch's suffices.
        self.config["zero_force_ds_cpu_optimizer"] = False
        self.config["zero_optimization"]["stage3_param_persistence_threshold"] = LEAST_CUT
        if universal:
            self.config["checkpoint"] = {"load_universal": True}
        if bf16:
            self.config["torch_autocast"] = {
                "enabled": True,
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],  # gradients travel in float32
            }

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load, and undo what DeepSpeed's stage 3 does to the optimizer when it reads the universal format.

        It gives every parameter group the settings of the first, weight decay included, and all parameters one tensor
        to count their steps in, which each of them then advances.
        """
        optimizer = getattr(self.deepspeed_engine.optimizer, "optimizer", None)
        before = [dict(group) for group in optimizer.param_groups] if optimizer is not None else []
        loaded: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        if self.zero_stage_3 and "checkpoint" in (self.config or {}):
            assert optimizer is not None
            for group, own in zip(optimizer.param_groups, before, strict=True):
                # The rate is the schedule's; which parameters a group holds, DeepSpeed has just set.
                group.update({key: value for key, value in own.items() if key not in ("params", "lr")})
            for state in optimizer.state.values():
                state["step"] = state["step"].clone()
        return loaded

    def setup_environment(self) -> None:
        """Start the ranks; on CPU without compiling DeepSpeed's shared-memory collectives, gloo does."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
            return
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Create the process group."""
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
        """Give every parameter its own memory again; DeepSpeed leaves views of one flat buffer."""
        super().teardown()
        if self.lightning_module is not None:
            for parameter in self.lightning_module.parameters():
                parameter.data = parameter.data.clone()

    @property
    def root_device(self) -> torch.device:
        """This rank's device; while DeepSpeed starts on CPU, with the index that it requires."""
        device = super().root_device
        return torch.device("cpu", self.local_rank) if self._starting and device.type == "cpu" else device

    def _setup_model_and_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self._starting = True
        try:
            return super()._setup_model_and_optimizer(*args, **kwargs)
        finally:
            self._starting = False
