"""Build an item encoding by name: `tokens` or `position`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.embed.store import Modality
from trialign.errors import ConfigError, suggest
from trialign.generate.encodings.encoding import ItemEncoding
from trialign.generate.encodings.position import PositionEncoding
from trialign.generate.encodings.tokens import TokensEncoding
from trialign.quantize.standardize import Standardizer
from trialign.runtime.seeding import derive, torch_generator
from trialign.semid.table import SIDTable


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
    repeats: bool = False,
) -> ItemEncoding:
    """Return an item encoding with initial weights.

    Args:
        sids: the semantic IDs.
        table_VD: the backbone's text embedding; its number of rows is the text vocabulary.
        seed: of initial weights.
        encoding: `tokens` or `position`.
        id_embedding: as `PositionEncoding`; not for `tokens`, which identifies items by their codes alone.
        joint_nodes: as `PositionEncoding`.
        features_NF: as `PositionEncoding`, see `item_features`.
        read_scale: as `PositionEncoding`.
        text_scale: factor by which the backbone scales `table_VD` as input; codes get the same norm as text.
        repeats: whether it learns the repeat term.

    Raises:
        ConfigError: `tokens` with a setting that only `position` can use.
    """
    text_vocab, width = table_VD.shape
    vectors_LKD = initial_codes(sids.codebooks_LKD, (sids.num_levels, sids.codebook_size, width), table_VD, seed)
    if encoding == TokensEncoding.name:
        if id_embedding or features_NF is not None:
            raise ConfigError(
                "train.items.id_embedding or train.items.features with train.items.encoding=tokens",
                rule="only the encoding `position` reads more of an item than its codes",
                remedy="switch both off, or set train.items.encoding=position",
            )
        return TokensEncoding(sids.codes_NL, text_vocab, vectors_LKD, text_scale, repeats=repeats)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "items"))
        return PositionEncoding(
            sids.codes_NL,
            text_vocab,
            vectors_LKD,
            features_NF=features_NF,
            id_embedding=id_embedding,
            joint_nodes=joint_nodes,
            read_scale=read_scale,
            repeats=repeats,
        )


def item_features(
    modalities: Mapping[str, Modality], names: Sequence[str], *, weights: bool = True
) -> torch.Tensor | None:
    """Return the concatenated vectors of some modalities, each standardized to length 1 on average: float32 [N, F].

    A missing vector is zero. Without names the result is None. Without `weights` the tensor is on the device `meta`.

    Raises:
        ConfigError: a name is not a modality of the embed stage.
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
    """Return the initial vectors of all codes, with the average norm of the backbone's own embeddings.

    A random orthonormal map takes the codebooks to the backbone's width and keeps their angles (if the codebooks are
    wider, its columns are orthonormal). Each level is then scaled to the norm of the embeddings, because residuals
    shrink with depth.

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
