"""The interface of a quantizer, and the checks that all quantizers share."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from trialign.config.quantize import ModalityWeights, QuantizeConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.embed.store import Interests, Modality, check
from trialign.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_HEADER, _TENSORS = "quantizer.json", "quantizer.safetensors"

C = TypeVar("C", bound=QuantizeConfig)


@dataclass(frozen=True)
class QuantizerOutput:
    """The codes of a catalogue, with the latents and codebooks that `assign` needs to resolve collisions.

    Args:
        codes_NL: int64, the nearest code of each level in turn (RQ-KMeans with concentration: the nearest after a
            penalty); several items may share a tuple.
        latents_ND: float32, the vectors that were quantized.
        codebooks_LKD: float32; an item's quantized vector is the sum of its L codebook vectors.
    """

    codes_NL: NDArray[np.int64]
    latents_ND: NDArray[np.float32]
    codebooks_LKD: NDArray[np.float32]


class Quantizer(Protocol):
    """A quantizer: fits codebooks on item vectors and encodes items as residual codes."""

    def fit(
        self,
        modalities: Mapping[str, Modality],
        *,
        seed: int,
        folder: Path,
        runtime: RuntimeConfig,
        interests: Interests | None = None,
        tracking: Tracking | None = None,
    ) -> dict[str, Any]:
        """Learn the codebooks, log into `folder`, and return the statistics of the codes.

        They are metrics.codebook_stats, `codebook_size`, the K that was fitted, and `reconstruction`: by modality, the
        squared error as a share of the error of predicting its mean. `runtime` says where it trains and `tracking`
        what W&B logs; `interests` are the vectors of the items' interests, for quantizers that train or measure codes
        with them.
        """
        ...

    def encode(self, modalities: Mapping[str, Modality]) -> QuantizerOutput:
        """Return the codes of a catalogue that has the modalities of the fit."""
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted quantizer as JSON and safetensors."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


def weighted(modalities: Mapping[str, Modality], shares: ModalityWeights) -> dict[str, Modality]:
    """Return the modalities whose weight is not 0, in alphabetical order.

    Raises:
        ConfigError: all weights are 0, or one is set for a modality that is not there.
    """
    weights = shares.by_modality()
    for name, weight in weights.items():
        if weight not in (0.0, 1.0) and name not in modalities:
            raise ConfigError(
                f"quantize.weights.{name}={weight}",
                rule=f"the embedded modalities are {', '.join(sorted(modalities))}",
                remedy=f"leave quantize.weights.{name} at 1, or embed that modality too",
            )
    found = {name: modalities[name] for name in sorted(modalities) if weights.get(name, 1.0) > 0}
    if modalities and not found:
        raise ConfigError(
            f"quantize.weights={weights} for {', '.join(sorted(modalities))}",
            rule="one modality at least plays a part",
            remedy="give one of them a weight above 0",
        )
    return found


def fitting_size(modalities: Mapping[str, Modality], codebook_size: int) -> int:
    """Return K as configured; with fewer items than K, an eighth of the number of items, with a log line.

    With as many codes as items, each item could have a first code of its own, which groups nothing.

    Raises:
        DataError: vectors that are not finite or not of one catalogue, or fewer than two items.
    """
    check(modalities)
    num_items = len(next(iter(modalities.values())).present_N)
    if num_items < 2:
        raise DataError(
            f"a catalogue of {num_items} item",
            rule="codes tell items apart, so there are two at least",
            remedy="use a larger catalogue",
        )
    if codebook_size <= num_items:
        return codebook_size
    size = max(2, num_items // 8)
    logger.info("  %d codes per level, not quantize.codebook_size=%d: %d items", size, codebook_size, num_items)
    return size


def save_fitted(folder: Path, settings: QuantizeConfig, tensors: dict[str, Tensor]) -> None:
    """Write `quantizer.json`, all settings but the class, which the manifest names, and `quantizer.safetensors`."""
    saved = asdict(settings)
    del saved["_target_"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _HEADER).write_text(json.dumps(saved))
    save_file(tensors, folder / _TENSORS)


def load_fitted(folder: Path, schema: type[C]) -> tuple[C, dict[str, Tensor]]:
    """Return the settings and the tensors that `save_fitted` wrote."""
    saved = json.loads((folder / _HEADER).read_text())
    return schema(**saved | {"weights": ModalityWeights(**saved["weights"])}), load_file(folder / _TENSORS)


def check_fitted(fitted: Mapping[str, int], modalities: Mapping[str, Modality]) -> None:
    """Raise an error if the vectors' modalities or widths differ from those of the fit.

    Raises:
        DataError: they differ.
    """
    found = {name: modality.dim for name, modality in modalities.items()}
    if found != dict(fitted):
        raise DataError(
            f"vectors of {found}",
            rule=f"this quantizer was fitted on {dict(fitted)} (modality: width)",
            remedy="embed with the settings it was fitted with, or run `trialign quantize` again",
        )
