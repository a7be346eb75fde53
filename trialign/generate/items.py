"""The item side of a generator by name: how items are in a row, and what reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.embed.store import Modality
from trialign.errors import ConfigError, suggest
from trialign.generate.encoding import ItemEncoding, PositionEncoding, TokensEncoding
from trialign.generate.item_positions import ItemPositions
from trialign.generate.item_tokens import ItemTokens
from trialign.quantize.standardize import Standardizer
from trialign.runtime.seeding import derive, torch_generator
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace


def build_items(
    sids: SIDTable,
    table_VD: torch.Tensor,
    *,
    seed: int,
    encoding: str,
    id_embedding: bool,
    joint_nodes: int,
    features_NF: torch.Tensor | None,
    read_scale: float = 1.0,
    text_scale: float = 1.0,
) -> tuple[ItemEncoding, ItemTokens | ItemPositions]:
    """Return both halves of an item encoding.

    Args:
        sids: the semantic IDs.
        table_VD: the backbone's text embedding; its height is the text vocabulary.
        seed: of first weights.
        encoding: `tokens` or `position`.
        id_embedding: as `ItemPositions`; `tokens` knows items by their codes alone.
        joint_nodes: as `ItemPositions`.
        features_NF: as `ItemPositions`, see `item_features`.
        read_scale: as `ItemPositions`.
        text_scale: how much longer than in `table_VD` the backbone reads text; codes are read as long as text.

    Raises:
        ConfigError: `tokens` with what only `position` can use.
    """
    text_vocab, width = table_VD.shape
    vectors_LKD = initial_codes(sids.codebooks_LKD, (sids.num_levels, sids.codebook_size, width), table_VD, seed)
    if encoding == "tokens":
        if id_embedding or features_NF is not None:
            raise ConfigError(
                "train.items.id_embedding or train.items.features with train.items.encoding=tokens",
                rule="only the encoding `position` reads more of an item than its codes",
                remedy="switch both off, or set train.items.encoding=position",
            )
        space = TokenSpace(text_vocab, sids.num_levels, sids.codebook_size)
        return TokensEncoding(sids.codes_NL, space), ItemTokens(space, vectors_LKD, text_scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "items"))
        items = ItemPositions(
            sids.codes_NL,
            text_vocab,
            vectors_LKD,
            features_NF=features_NF,
            id_embedding=id_embedding,
            joint_nodes=joint_nodes,
            read_scale=read_scale,
        )
    return PositionEncoding(text_vocab), items


def item_features(
    modalities: Mapping[str, Modality], names: Sequence[str], *, weights: bool = True
) -> torch.Tensor | None:
    """Return the vectors of some modalities side by side, each standardized to length 1 on average: float32 [N, F].

    What an item lacks is zero; without names there are none. Without `weights` the tensor has its shape alone.

    Raises:
        ConfigError: a name is no modality of the embed stage.
    """
    for name in names:
        if name not in modalities:
            raise ConfigError(
                f"train.items.features names '{name}'",
                rule="features are modalities that the embed stage made",
                remedy=suggest(name, modalities),
            )
    chosen = [modalities[name] for name in names]
    if chosen and not weights:
        shape = (len(chosen[0].present_N), sum(found.dim for found in chosen))
        return torch.empty(shape, dtype=torch.float32, device="meta")
    scaled = [Standardizer.fit(found)(found) / found.dim**0.5 for found in chosen]
    return torch.cat(scaled, dim=1) if scaled else None


def initial_codes(
    codebooks_LKD: NDArray[np.float32] | None, shape: tuple[int, int, int], table_VD: torch.Tensor, seed: int
) -> torch.Tensor:
    """Return the first vectors of all codes, as long as the backbone's own embeddings are on average.

    The codebooks are carried into the backbone's width by one random map that keeps their angles (its rows, or where
    the codebooks are wider its columns, are orthonormal), then scaled level by level: residuals shrink with depth, what
    the backbone is used to does not.

    Args:
        codebooks_LKD: codebooks of any width, or None for random directions.
        shape: (L, K, width of the backbone).
        table_VD: the backbone's text embedding.
        seed: of the map, or of the random directions.
    """
    num_levels, codebook_size, width = shape
    if codebooks_LKD is None:
        vectors_LKD = torch.randn(shape, generator=torch_generator(seed, "codes"))
    else:
        assert codebooks_LKD.shape[:2] == (num_levels, codebook_size), (codebooks_LKD.shape, shape)
        source = codebooks_LKD.shape[2]
        square = torch.randn(max(source, width), max(source, width), generator=torch_generator(seed, "codes"))
        vectors_LKD = torch.from_numpy(np.array(codebooks_LKD)) @ torch.linalg.qr(square).Q[:source, :width]
    norms_L = vectors_LKD.norm(dim=-1).mean(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    scaled_LKD: torch.Tensor = vectors_LKD * (table_VD.norm(dim=-1).mean() / norms_L)[:, None, None]
    return scaled_LKD
