"""What reinforcement learning starts from, and what an objective makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialign.config.runtime import RuntimeConfig
from trialign.data.dataset import Dataset
from trialign.foreign import Json
from trialign.generate.module import GeneratorModule
from trialign.rl.module import RolloutDataModule
from trialign.semid.table import SIDTable
from trialign.stream.module import LaneDataModule


@dataclass(frozen=True)
class Start:
    """What training starts from: the dataset, its semantic IDs, a finished generator, and what it has not learned.

    Attributes:
        folder: the finished train stage.
        share: of the positions that it held out.
        quality_N: of the items' interests, where the reward stage judged them.
    """

    dataset: Dataset
    sids: SIDTable
    folder: Path
    share: float
    quality_N: NDArray[np.floating] | None = None


class Objective(NamedTuple):
    """What is trained, and on what.

    `global_batch_size`: rows or prompts per optimizer step, over all ranks. `runtime`: as asked for, fitted to these.
    `counts`: what the manifest says of it when the training is over.
    """

    module: GeneratorModule
    data: RolloutDataModule | LaneDataModule
    global_batch_size: int
    runtime: RuntimeConfig
    counts: Callable[[], dict[str, Json]]
