"""RQ-KMeans: residual k-means on the concatenated, standardised vectors of an item."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trialign.embed.store import Modality
from trialign.quantize.metrics import health
from trialign.quantize.quantizer import Encoded, check_fitted, check_input
from trialign.quantize.residual import encode, fit_codebooks
from trialign.quantize.standardize import Standardizer, pack, unpack

_HEADER, _TENSORS = "quantizer.json", "quantizer.safetensors"


class RQKMeansQuantizer:
    """L codebooks by k-means, each on what the ones before left over.

    Every modality has the same mean squared norm however wide it is; an item without one stands at its mean.

    Args:
        num_levels: L.
        codebook_size: K.
        num_iterations: Lloyd iterations per level at most.
    """

    def __init__(self, num_levels: int, codebook_size: int, num_iterations: int) -> None:
        self.num_levels = num_levels
        self.codebook_size = codebook_size
        self.num_iterations = num_iterations
        self.standardizers: dict[str, Standardizer] = {}
        self.codebooks_LKD = torch.empty(0)

    def fit(self, modalities: Mapping[str, Modality], *, seed: int, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Fit the codebooks and return the health of the codes; nothing is logged.

        Raises:
            DataError: see quantizer.check_input.
        """
        check_input(modalities, self.codebook_size)
        self.standardizers = {name: Standardizer.fit(modalities[name]) for name in sorted(modalities)}
        latents_ND = self._latents(modalities)
        self.codebooks_LKD = fit_codebooks(
            latents_ND,
            num_levels=self.num_levels,
            codebook_size=self.codebook_size,
            num_iterations=self.num_iterations,
            seed=seed,
        )
        codes_NL, residuals_LND = encode(latents_ND, self.codebooks_LKD)
        return health(codes_NL, self.codebook_size, latents_ND, residuals_LND)

    def encode(self, modalities: Mapping[str, Modality]) -> Encoded:
        """Return the codes of every item.

        Raises:
            DataError: other modalities than it was fitted on.
        """
        check_fitted({name: len(found.mean_D) for name, found in self.standardizers.items()}, modalities)
        latents_ND = self._latents(modalities)
        codes_NL, _ = encode(latents_ND, self.codebooks_LKD)
        return Encoded(codes_NL.numpy(), latents_ND.numpy(), self.codebooks_LKD.numpy())

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `quantizer.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in ("num_levels", "codebook_size", "num_iterations")}
        (folder / _HEADER).write_text(json.dumps(settings))
        save_file({"codebooks_LKD": self.codebooks_LKD} | pack(self.standardizers), folder / _TENSORS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        quantizer = cls(**json.loads((folder / _HEADER).read_text()))
        tensors = load_file(folder / _TENSORS)
        quantizer.codebooks_LKD = tensors["codebooks_LKD"]
        quantizer.standardizers = unpack(tensors)
        return quantizer

    def _latents(self, modalities: Mapping[str, Modality]) -> Tensor:
        parts = [
            found(modalities[name]) / math.sqrt(modalities[name].dim) for name, found in self.standardizers.items()
        ]
        return torch.cat(parts, dim=1)
