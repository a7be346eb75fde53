"""The residual-quantized autoencoder: linear fusion, encoder, codebooks, one decoder head per modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from trialign.config.quantize import RQVAEConfig
from trialign.quantize.codebook import EMACodebooks, Quantized

_TEXT = "text"


@dataclass(frozen=True)
class Output:
    """The output of a forward pass: latents, their quantization or None, and the modalities decoded from `read_BD`.

    `read_BD` is the quantized vector, or the latents while nothing is quantized.
    """

    latents_BD: Tensor
    quantized: Quantized | None
    read_BD: Tensor
    reconstructions: dict[str, Tensor]


class RQVAE(nn.Module):
    """Autoencoder over any set of modalities.

    Fusion as in DeepInterestGR, linear and without bias, so that a missing modality (a row of zeros) contributes
    nothing: e_vis = W_v f_vis, e = W_f [e_text ; e_vis]. Text enters W_f as it is, every other modality through a W of
    its own.

    Args:
        dims: width of each modality.
        settings: widths, K, L, and the decay of the codebooks; `fusion_dim` is also the width of e_m.
    """

    def __init__(self, dims: Mapping[str, int], settings: RQVAEConfig) -> None:
        super().__init__()
        fusion_dim, code_dim, hidden_dims = settings.fusion_dim, settings.code_dim, settings.hidden_dims
        self.dims = dict(sorted(dims.items()))
        projected = {name: dim for name, dim in self.dims.items() if name != _TEXT}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(dim, fusion_dim, bias=False) for name, dim in projected.items()}
        )
        width = self.dims.get(_TEXT, 0) + fusion_dim * len(projected)
        self.fusion = nn.Linear(width, fusion_dim, bias=False)
        self.encoder = mlp([fusion_dim, *hidden_dims, code_dim])
        self.codebooks = EMACodebooks(settings.num_levels, settings.codebook_size, code_dim, settings.ema_decay)
        self.heads = nn.ModuleDict(
            {name: mlp([code_dim, *reversed(hidden_dims), dim]) for name, dim in self.dims.items()}
        )

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return latents_BD of standardized vectors by modality, zero where an item lacks one."""
        parts = [inputs[name] if name == _TEXT else self.projections[name](inputs[name]) for name in self.dims]
        latents_BD: Tensor = self.encoder(self.fusion(torch.cat(parts, dim=1)))
        return latents_BD

    def view(self, inputs: Mapping[str, Tensor], name: str, *, quantize: bool) -> Tensor:
        """Return the latents of one modality alone, quantized straight-through or not."""
        alone = {other: given if other == name else torch.zeros_like(given) for other, given in inputs.items()}
        latents_BD = self.encode(alone)
        return self.codebooks(latents_BD).quantized_BD if quantize else latents_BD

    def forward(self, inputs: Mapping[str, Tensor], *, quantize: bool = True) -> Output:
        """Encode, quantize (or not) and reconstruct every modality."""
        latents_BD = self.encode(inputs)
        quantized: Quantized | None = self.codebooks(latents_BD) if quantize else None
        read_BD = quantized.quantized_BD if quantized else latents_BD
        return Output(latents_BD, quantized, read_BD, {name: head(read_BD) for name, head in self.heads.items()})


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
