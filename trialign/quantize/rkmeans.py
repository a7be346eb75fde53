"""RQ-KMeans: residual k-means on the concatenated, standardized vectors of an item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trialign.config.quantize import RQKMeansConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.embed.store import Interests, Modality
from trialign.quantize.metrics import codebook_stats
from trialign.quantize.prefix import fit_levels
from trialign.quantize.quantizer import QuantizerOutput, check_fitted, fitting_size, load_fitted, save_fitted, weighted
from trialign.quantize.residual import decode, encode
from trialign.quantize.standardize import Standardizer, pack, unpack


class RQKMeansQuantizer:
    """RQ-KMeans: L codebooks by k-means, each fitted on the residuals of the previous level.

    Every modality is scaled to the same mean squared norm, times its weight, whatever its width. An item without a
    modality gets its mean.

    Args:
        settings: of the group `quantize`; see quantizer.fitting_size, prefix.concentrate and prefix.separate.
    """

    def __init__(self, settings: RQKMeansConfig) -> None:
        self.settings = settings
        self.standardizers: dict[str, Standardizer] = {}
        self.codebooks_LKD = self.penalties_MKK = torch.empty(0)

    def fit(
        self,
        modalities: Mapping[str, Modality],
        *,
        seed: int,
        folder: Path,  # noqa: ARG002  # of the protocol: nothing is logged
        runtime: RuntimeConfig,  # noqa: ARG002
        interests: Interests | None = None,  # noqa: ARG002
        tracking: Tracking | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Fit the codebooks and return the statistics of the codes; nothing is logged.

        Raises:
            DataError: see quantizer.fitting_size.
            ConfigError: see quantizer.weighted.
        """
        settings = self.settings
        modalities = weighted(modalities, settings.weights)
        self.settings = settings = replace(settings, codebook_size=fitting_size(modalities, settings.codebook_size))
        self.standardizers = {name: Standardizer.fit(found) for name, found in modalities.items()}
        latents_ND = self._latents(modalities)
        self.codebooks_LKD, self.penalties_MKK = fit_levels(latents_ND, settings, seed=seed)
        codes_NL = encode(latents_ND, self.codebooks_LKD, self.penalties_MKK)
        lost_ND = latents_ND - decode(codes_NL, self.codebooks_LKD)
        widths = [modalities[name].dim for name in self.standardizers]
        return codebook_stats(codes_NL, latents_ND, self.codebooks_LKD) | {
            "codebook_size": settings.codebook_size,
            "reconstruction": {
                name: _share_lost(lost_NM, latents_NM, torch.from_numpy(np.array(modalities[name].present_N)))
                for name, lost_NM, latents_NM in zip(
                    self.standardizers, lost_ND.split(widths, dim=1), latents_ND.split(widths, dim=1), strict=True
                )
            },
        }

    def encode(self, modalities: Mapping[str, Modality]) -> QuantizerOutput:
        """Return the codes of every item.

        Raises:
            DataError: other modalities than it was fitted on.
        """
        modalities = weighted(modalities, self.settings.weights)
        check_fitted({name: len(found.mean_D) for name, found in self.standardizers.items()}, modalities)
        latents_ND = self._latents(modalities)
        codes_NL = encode(latents_ND, self.codebooks_LKD, self.penalties_MKK)
        return QuantizerOutput(codes_NL.numpy(), latents_ND.numpy(), self.codebooks_LKD.numpy())

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `quantizer.safetensors`."""
        fitted = {"codebooks_LKD": self.codebooks_LKD, "penalties_MKK": self.penalties_MKK}
        save_fitted(folder, self.settings, fitted | pack(self.standardizers))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        settings, tensors = load_fitted(folder, RQKMeansConfig)
        quantizer = cls(settings)
        quantizer.codebooks_LKD, quantizer.penalties_MKK = tensors["codebooks_LKD"], tensors["penalties_MKK"]
        quantizer.standardizers = unpack(tensors)
        return quantizer

    def _latents(self, modalities: Mapping[str, Modality]) -> Tensor:
        weights = self.settings.weights.by_modality()
        parts = [
            found(modalities[name]) * math.sqrt(weights.get(name, 1.0) / modalities[name].dim)
            for name, found in self.standardizers.items()
        ]
        return torch.cat(parts, dim=1)


def _share_lost(lost_ND: Tensor, latents_ND: Tensor, present_N: Tensor) -> float:
    """Return the squared error as a share of the squared norm, over the items that have the modality."""
    energy = latents_ND[present_N].square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    return float(lost_ND[present_N].square().sum() / energy)
