"""Lightning, imported after the repair of torchvision that it may need; all modules import it from here.

Importing it takes seconds: code that a verb may not need imports this inside of a function.
"""

from __future__ import annotations

import trialign.runtime.torchvision_fault  # noqa: F401  (first)

# isort: split
import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities import rank_zero_only

__all__ = [
    "CSVLogger",
    "CUDAAccelerator",
    "Callback",
    "DDPStrategy",
    "DeepSpeedStrategy",
    "ModelParallelStrategy",
    "Profiler",
    "SLURMEnvironment",
    "Strategy",
    "WandbLogger",
    "pl",
    "rank_zero_only",
    "reset_seed",
]
