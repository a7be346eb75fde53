"""RQ-VAE: the quantizer that is trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.embed.store import Interests, Modality
from trialign.errors import ConfigError
from trialign.quantize.autoencoder import RQVAE, mlp
from trialign.quantize.loss import reconstruction
from trialign.quantize.metrics import health
from trialign.quantize.quantizer import Encoded, check_fitted, fitting_size, weighted
from trialign.quantize.residual import decode, encode
from trialign.quantize.standardize import Standardizer, pack, unpack
from trialign.runtime.seeding import seed_global

logger = logging.getLogger(__name__)

_HEADER, _TENSORS = "quantizer.json", "quantizer.safetensors"
_BLOCK = 8192
_TERMS = ("commitment", "alignment", "interest", "balance")


class RQVAEQuantizer:
    """Residual-quantized autoencoder with EMA codebooks; quantizes any set of modalities.

    Args:
        num_levels: L.
        codebook_size: K; lowered where there are fewer items, see quantizer.fitting_size.
        code_dim: D of a codebook vector.
        hidden_dims: widths of the encoder's hidden layers; the decoder heads mirror them.
        fusion_dim: width of the fused item vector.
        num_epochs: passes over the catalogue.
        warmup: share of the passes before the codebooks come in, in 0..1.
        batch_size: items per step, over all ranks.
        learning_rate: peak.
        weight_decay: AdamW.
        commitment_weight: beta.
        alignment_weight: of the alignment of quantized text and image views, see loss.alignment; without effect where
            one of the two is not embedded.
        interest_weight: of the reconstruction of interests, see loss.interest_reconstruction.
        balance_weight: of even use of the codes, see loss.balance.
        temperature: of the two contrastive terms.
        ema_decay: share of the running counts and sums that an update keeps, in 0..1.
        weights: of the modalities' reconstruction; 1 where not named, 0 leaves a modality out.
    """

    def __init__(
        self,
        num_levels: int,
        codebook_size: int,
        code_dim: int,
        hidden_dims: Sequence[int],
        fusion_dim: int,
        num_epochs: int,
        warmup: float,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        commitment_weight: float,
        alignment_weight: float,
        interest_weight: float,
        balance_weight: float,
        temperature: float,
        ema_decay: float,
        weights: Mapping[str, float],
    ) -> None:
        self.settings: dict[str, Any] = {
            "num_levels": num_levels,
            "codebook_size": codebook_size,
            "code_dim": code_dim,
            "hidden_dims": list(hidden_dims),
            "fusion_dim": fusion_dim,
            "num_epochs": num_epochs,
            "warmup": warmup,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "commitment_weight": commitment_weight,
            "alignment_weight": alignment_weight,
            "interest_weight": interest_weight,
            "balance_weight": balance_weight,
            "temperature": temperature,
            "ema_decay": ema_decay,
            "weights": dict(weights),
        }
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
        """Train, log losses and health per epoch to `folder/log`, and return the health of the final codes.

        Raises:
            DataError: see quantizer.fitting_size.
            ConfigError: see quantizer.weighted; or interests are asked for and there are none.
        """
        from trialign.quantize.module import ItemBatches, RQVAEModule  # lightning takes seconds to import
        from trialign.runtime.trainer import Plan, build_trainer

        modalities = weighted(modalities, self.settings["weights"])
        self.settings["codebook_size"] = fitting_size(modalities, self.settings["codebook_size"])
        asked = self._interests(interests)
        self.standardizers = {name: Standardizer.fit(found) for name, found in modalities.items()}
        inputs = {name: found(modalities[name]) for name, found in self.standardizers.items()}
        present = {name: torch.from_numpy(np.array(modalities[name].present_N)) for name in inputs}
        with torch.random.fork_rng(devices=[]):
            seed_global(seed, "quantize", "weights")
            self.model = self._build()
            head = None if asked is None else mlp(self._widths(asked.vectors_UD.shape[1]))
        module = RQVAEModule(
            self.model,
            ItemBatches(inputs, present, self.settings["batch_size"], seed, asked),
            weights={name: self.settings[f"{name}_weight"] for name in _TERMS}
            | {"reconstruction": self.settings["weights"]},
            interest_head=head,
            seed=seed,
            **_chosen(self.settings, "num_epochs warmup learning_rate weight_decay temperature"),
        )
        # Epochs last a second: a line each is the log, and a bar each would only flicker.
        runtime = replace(runtime, strategy=_whole_strategy(runtime.strategy), log_every=1)
        build_trainer(folder, runtime, Plan(max_epochs=self.settings["num_epochs"]), tracking=tracking).fit(module)
        self.model = self.model.cpu().eval()
        encoded = self.encode(modalities)
        codes_NL, latents_ND = torch.from_numpy(encoded.codes_NL), torch.from_numpy(encoded.latents_ND)
        return (
            health(codes_NL, latents_ND, torch.from_numpy(encoded.codebooks_LKD))
            | {"reconstruction": self._errors(codes_NL, inputs, present)}
            | {"codebook_size": self.settings["codebook_size"], "revived": module.num_revived}
        )

    @torch.inference_mode()
    def encode(self, modalities: Mapping[str, Modality]) -> Encoded:
        """Return the codes of every item.

        Raises:
            DataError: other modalities than it was fitted on.
        """
        assert self.model is not None, "fit or load first"
        modalities = weighted(modalities, self.settings["weights"])
        check_fitted(self.model.dims, modalities)
        inputs = {name: found(modalities[name]) for name, found in self.standardizers.items()}
        blocks = zip(*(inputs[name].split(_BLOCK) for name in self.model.dims), strict=True)
        latents_ND = torch.cat([self.model.encode(dict(zip(self.model.dims, block, strict=True))) for block in blocks])
        codes_NL = encode(latents_ND, self.model.codebooks.vectors_LKD)
        return Encoded(codes_NL.numpy(), latents_ND.numpy(), self.model.codebooks.vectors_LKD.numpy())

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `quantizer.safetensors`."""
        assert self.model is not None, "fit or load first"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _HEADER).write_text(json.dumps(self.settings))
        weights = {f"model.{name}": tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(weights | pack(self.standardizers), folder / _TENSORS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        quantizer = cls(**json.loads((folder / _HEADER).read_text()))
        tensors = load_file(folder / _TENSORS)
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
        """Return the error of each modality read back from the codes."""
        assert self.model is not None
        quantized_ND = decode(codes_NL, self.model.codebooks.vectors_LKD)
        return {
            name: float(reconstruction(head(quantized_ND), inputs[name], present[name]).mean())
            for name, head in self.model.heads.items()
        }

    def _interests(self, interests: Interests | None) -> Interests | None:
        """Return the interests where the codes are measured against them."""
        if not self.settings["interest_weight"]:
            return None
        if interests is None:
            raise ConfigError(
                f"quantize.interest_weight={self.settings['interest_weight']}, but no interests are embedded",
                rule="codes are measured against the vectors of the items' interests",
                remedy="set embed.interests=true (and enrich/interests), or quantize.interest_weight=0",
            )
        return interests

    def _widths(self, dim: int) -> list[int]:
        """Return the widths of a head's layers."""
        return [self.settings["code_dim"], *reversed(self.settings["hidden_dims"]), dim]

    def _build(self) -> RQVAE:
        dims = {name: len(found.mean_D) for name, found in self.standardizers.items()}
        chosen = _chosen(self.settings, "num_levels codebook_size code_dim hidden_dims fusion_dim ema_decay")
        return RQVAE(dims, **chosen)


def _whole_strategy(name: str) -> str:
    """Return the strategy of the fit: a network this small is not cut up, whatever the generator asks for."""
    if name in ("single", "ddp", "zero1", "zero2"):
        return name
    logger.info("  runtime.strategy=%s cuts parameters up; the quantizer is small and trains under ddp", name)
    return "ddp"


def _chosen(settings: Mapping[str, Any], names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names.split()}
