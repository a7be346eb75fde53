"""Group `quantize`: how item vectors become L residual codes."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from trialign.config.option import option


@dataclass
class QuantizeConfig:
    """What every quantizer has; of a class from outside, its further settings are attributes too."""

    _target_: str = MISSING
    num_levels: int = option(3, "L, codes per item", least=1)
    codebook_size: int = option(256, "K, codes per level; of fewer items an eighth of these, and said so", least=2)


@dataclass
class ModalityWeights:
    """How much each modality counts, whatever its width: in squared distances (rkmeans), in the loss (rqvae)."""

    text: float = option(1.0, "weight of the text vectors; 0 leaves them out", least=0)
    image: float = option(1.0, "weight of the image vectors; 0 leaves them out", least=0)
    joint: float = option(1.0, "weight of the joint vectors; 0 leaves them out", least=0)
    collaborative: float = option(1.0, "weight of the collaborative vectors; 0 leaves them out", least=0)

    def by_modality(self) -> dict[str, float]:
        """Return the weight of each modality."""
        return {
            "text": self.text,
            "image": self.image,
            "joint": self.joint,
            "collaborative": self.collaborative,
        }


@dataclass
class RQVAEConfig(QuantizeConfig):
    """Residual-quantized autoencoder with EMA codebooks."""

    _target_: str = "trialign.quantize.rqvae.RQVAEQuantizer"
    code_dim: int = option(64, "D, width of a codebook vector", least=1)
    hidden_dims: list[int] = option([256], "widths of the encoder's hidden layers, mirrored by the decoders", least=1)
    fusion_dim: int = option(256, "width of the fused item vector e = W_f [e_text ; W_v f_vis]", least=1)
    num_epochs: int = option(60, "passes over the catalogue", least=1)
    warmup: float = option(0.3, "share of the passes before the codebooks come in", least=0, below=1)
    batch_size: int = option(256, "items per step, over all ranks", least=1)
    learning_rate: float = option(5e-3, "AdamW, peak of a cosine", above=0)
    weight_decay: float = option(0.0, "AdamW", least=0)
    commitment_weight: float = option(0.25, "beta, weight of the commitment term", least=0)
    alignment_weight: float = option(
        0.1, "weight of the alignment of quantized text and image views, where both are embedded; 0: off", least=0
    )
    interest_weight: float = option(
        0.0,
        "weight of reading the items' interests from the quantized vectors; needs embed.interests=true; 0: off",
        least=0,
    )
    balance_weight: float = option(0.0, "weight of using all codes evenly; 0: off", least=0)
    temperature: float = option(0.07, "of the two contrastive terms, alignment and interests", above=0)
    ema_decay: float = option(0.95, "decay of the codebooks' running counts and sums", least=0, below=1)
    weights: ModalityWeights = field(default_factory=ModalityWeights)


@dataclass
class RQKMeansConfig(QuantizeConfig):
    """Residual k-means on the concatenated, standardized vectors."""

    _target_: str = "trialign.quantize.rkmeans.RQKMeansQuantizer"
    num_iterations: int = option(20, "Lloyd iterations per level at most", least=0)
    concentration: float = option(
        0.0,
        "how much items of one prefix are drawn to the same codes between the first level and the last; 0: not",
        least=0,
    )
    separation: int = option(
        20,
        "rounds in which the last codebook learns to tell items of one prefix apart; 0: plain k-means there too",
        least=0,
    )
    weights: ModalityWeights = field(default_factory=ModalityWeights)
