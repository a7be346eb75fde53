"""RQ-VAE: the quantizer that trains an autoencoder with residual codebooks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trialign.config.quantize import RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.embed.store import Interests, Modality
from trialign.errors import ConfigError
from trialign.quantize.autoencoder import RQVAE, mlp
from trialign.quantize.loss import reconstruction
from trialign.quantize.metrics import codebook_stats
from trialign.quantize.quantizer import QuantizerOutput, check_fitted, fitting_size, load_fitted, save_fitted, weighted
from trialign.quantize.residual import decode, encode
from trialign.quantize.standardize import Standardizer, pack, unpack
from trialign.runtime.seeding import seed_global

logger = logging.getLogger(__name__)

_BLOCK = 8192


class RQVAEQuantizer:
    """Residual-quantized autoencoder with EMA codebooks; quantizes any set of modalities.

    Args:
        settings: of the group `quantize`; see quantizer.fitting_size for `codebook_size`. `alignment_weight` has no
            effect where text or image is not embedded.
    """

    def __init__(self, settings: RQVAEConfig) -> None:
        self.settings = settings
        self.standardizers: dict[str, Standardizer] = {}
        self.model: RQVAE | None = None

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
        """Train, log losses and codebook statistics per epoch to `folder/log`, and return the final statistics.

        Raises:
            DataError: see quantizer.fitting_size.
            ConfigError: see quantizer.weighted; or interests are asked for and there are none.
        """
        from trialign.quantize.module import ItemBatches, RQVAEModule  # lightning takes seconds to import
        from trialign.runtime.trainer import Plan, build_trainer

        settings = self.settings
        modalities = weighted(modalities, settings.weights)
        self.settings = settings = replace(settings, codebook_size=fitting_size(modalities, settings.codebook_size))
        asked = self._interests(interests)
        self.standardizers = {name: Standardizer.fit(found) for name, found in modalities.items()}
        inputs = {name: found(modalities[name]) for name, found in self.standardizers.items()}
        present = {name: torch.from_numpy(np.array(modalities[name].present_N)) for name in inputs}
        with torch.random.fork_rng(devices=[]):
            seed_global(seed, "quantize", "weights")
            self.model = self._build()
            widths = [settings.code_dim, *reversed(settings.hidden_dims)]
            head = None if asked is None else mlp([*widths, asked.vectors_UD.shape[1]])
        module = RQVAEModule(
            self.model,
            ItemBatches(inputs, present, settings.batch_size, seed, asked),
            settings,
            interest_head=head,
            seed=seed,
        )
        # Epochs last a second, so each gets a log line; a progress bar would only flicker.
        runtime = replace(runtime, strategy=_whole_strategy(runtime.strategy), log_every=1)
        build_trainer(folder, runtime, Plan(max_epochs=settings.num_epochs), tracking=tracking).fit(module)
        self.model = self.model.cpu().eval()
        encoded = self.encode(modalities)
        codes_NL, latents_ND = torch.from_numpy(encoded.codes_NL), torch.from_numpy(encoded.latents_ND)
        return (
            codebook_stats(codes_NL, latents_ND, torch.from_numpy(encoded.codebooks_LKD))
            | {"reconstruction": self._errors(codes_NL, inputs, present)}
            | {"codebook_size": settings.codebook_size, "revived": module.num_revived}
        )

    @torch.inference_mode()
    def encode(self, modalities: Mapping[str, Modality]) -> QuantizerOutput:
        """Return the codes of every item.

        Raises:
            DataError: other modalities than it was fitted on.
        """
        assert self.model is not None, "fit or load first"
        modalities = weighted(modalities, self.settings.weights)
        check_fitted(self.model.dims, modalities)
        inputs = {name: found(modalities[name]) for name, found in self.standardizers.items()}
        blocks = zip(*(inputs[name].split(_BLOCK) for name in self.model.dims), strict=True)
        latents_ND = torch.cat([self.model.encode(dict(zip(self.model.dims, block, strict=True))) for block in blocks])
        codes_NL = encode(latents_ND, self.model.codebooks.vectors_LKD)
        return QuantizerOutput(codes_NL.numpy(), latents_ND.numpy(), self.model.codebooks.vectors_LKD.numpy())

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `quantizer.safetensors`."""
        assert self.model is not None, "fit or load first"
        weights = {f"model.{name}": tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        save_fitted(folder, self.settings, weights | pack(self.standardizers))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        settings, tensors = load_fitted(folder, RQVAEConfig)
        quantizer = cls(settings)
        quantizer.standardizers = unpack(tensors)
        quantizer.model = quantizer._build().eval()
        prefix = "model."
        weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        quantizer.model.load_state_dict(weights)
        return quantizer

    @torch.inference_mode()
    def _errors(
        self, codes_NL: Tensor, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Return the reconstruction error of each modality from the codes."""
        assert self.model is not None
        quantized_ND = decode(codes_NL, self.model.codebooks.vectors_LKD)
        return {
            name: float(reconstruction(head(quantized_ND), inputs[name], present[name]).mean())
            for name, head in self.model.heads.items()
        }

    def _interests(self, interests: Interests | None) -> Interests | None:
        """Return the interests if the interest loss has a weight, otherwise None."""
        if not self.settings.interest_weight:
            return None
        if interests is None:
            raise ConfigError(
                f"quantize.interest_weight={self.settings.interest_weight}, but no interests are embedded",
                rule="codes are measured against the vectors of the items' interests",
                remedy="set embed.interests=true (and enrich/interests), or quantize.interest_weight=0",
            )
        return interests

    def _build(self) -> RQVAE:
        return RQVAE({name: len(found.mean_D) for name, found in self.standardizers.items()}, self.settings)


def _whole_strategy(name: str) -> str:
    """Return a strategy without sharding for this small network, whatever strategy the generator uses."""
    if name in ("single", "ddp", "zero1", "zero2"):
        return name
    logger.info("  runtime.strategy=%s cuts parameters up; the quantizer is small and trains under ddp", name)
    return "ddp"
