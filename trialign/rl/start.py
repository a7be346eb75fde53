"""The input of the rl stage (`Start`), and an objective's module and data (`Objective`)."""

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
    """The input of the rl stage: dataset, semantic IDs, a trained generator, and its share of held-out positions.

    Attributes:
        folder: the finished train stage.
        share: share of the positions that it held out.
        quality_N: of the items' interests; None without a reward stage.
    """

    dataset: Dataset
    sids: SIDTable
    folder: Path
    share: float
    quality_N: NDArray[np.floating] | None = None


class Objective(NamedTuple):
    """The module to train and its data, by objective (grpo or the supervised control).

    `global_batch_size`: rows or prompts per optimizer step, over all ranks. `runtime`: as configured, fitted to these.
    `counts`: returns the manifest's entries when the training is over.
    """

    module: GeneratorModule
    data: RolloutDataModule | LaneDataModule
    global_batch_size: int
    runtime: RuntimeConfig
    counts: Callable[[], dict[str, Json]]
