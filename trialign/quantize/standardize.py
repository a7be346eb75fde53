"""Standardize modalities, so that none outweighs another by its units or its width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trialign.embed.store import Modality


@dataclass(frozen=True)
class Standardizer:
    """Centers a modality and divides it by one number, so that its elements have variance 1 on average.

    One number serves all dimensions: dividing each by its own deviation would scale the last, noisy dimensions of an
    SVD up to the first.

    Args:
        mean_D: float32, over the items that have the modality.
        scale: root mean square of the centered elements.
    """

    mean_D: Tensor
    scale: float

    @classmethod
    def fit(cls, modality: Modality) -> Self:
        """Measure mean and scale over the items that have the modality."""
        vectors_MD = np.asarray(modality.vectors_ND)[modality.present_N].astype(np.float64)
        mean_D = vectors_MD.mean(axis=0)
        scale = float(np.sqrt(np.square(vectors_MD - mean_D).mean()))
        return cls(torch.from_numpy(mean_D.astype(np.float32)), scale or 1.0)

    def __call__(self, modality: Modality) -> Tensor:
        """Return float32 [N, D]; zero where an item lacks the modality."""
        vectors_ND = torch.from_numpy(np.array(modality.vectors_ND, dtype=np.float32))
        present_N = torch.from_numpy(np.array(modality.present_N))
        return torch.where(present_N[:, None], (vectors_ND - self.mean_D) / self.scale, 0.0)


def pack(standardizers: Mapping[str, Standardizer]) -> dict[str, Tensor]:
    """Return standardizers as named tensors, for a file."""
    tensors = {f"mean.{name}": found.mean_D for name, found in standardizers.items()}
    return tensors | {
        f"scale.{name}": torch.tensor(found.scale, dtype=torch.float64) for name, found in standardizers.items()
    }


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Standardizer]:
    """Return the standardizers from the tensors of `pack`."""
    names = [key.removeprefix("mean.") for key in tensors if key.startswith("mean.")]
    return {name: Standardizer(tensors[f"mean.{name}"], float(tensors[f"scale.{name}"])) for name in sorted(names)}
