"""The generator: a backbone for text, and beside it a small embedding and head for the codes of semantic IDs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from trialign.generate.backbone import run_backbone, text_table
from trialign.runtime.seeding import torch_generator
from trialign.semid.tokens import TokenSpace


class Predictions(NamedTuple):
    """What the generator says at M target positions that share one set of C answers.

    `logits_MC`; `answers_M`: int64, the right one of the C; `tasks_M`: int64, the example's task.
    """

    logits_MC: torch.Tensor
    answers_M: torch.Tensor
    tasks_M: torch.Tensor


class CodeEmbedding(nn.Embedding):
    """One vector per code of every level; the level is part of the row number and is resolved in here.

    A subclass of Embedding so that weight decay spares it as it spares every other table.
    """

    def __init__(self, vectors_LKD: torch.Tensor) -> None:
        super().__init__(
            vectors_LKD.shape[0] * vectors_LKD.shape[1], vectors_LKD.shape[2], _weight=vectors_LKD.flatten(0, 1)
        )
        self.codebook_size = vectors_LKD.shape[1]

    def forward(self, levels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the vectors [..., D] of codes at levels, both int64 [...]."""
        return super().forward(levels * self.codebook_size + codes)


class CodeHead(CodeEmbedding):
    """One output vector per code of every level, not tied to the embedding."""

    def forward(self, hidden_MD: torch.Tensor, level: int) -> torch.Tensor:  # type: ignore[override]
        """Return the logits [..., K] of the codes of one level."""
        size = self.codebook_size
        return functional.linear(hidden_MD, self.weight[level * size : (level + 1) * size])


class Generator(nn.Module):
    """Reads rows of text and SID tokens, predicts the target ones.

    Args:
        backbone: a causal language model whose vocabulary is the text tokens; read through its input embeddings.
        space: the token space.
        codebooks_LKD: the quantizer's codebooks, of any width; None starts the codes at random.
        seed: of the projection that carries the codebooks into the backbone's width.
        dropout: probability on the input vectors and on the hidden states before the heads.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        space: TokenSpace,
        *,
        codebooks_LKD: NDArray[np.float32] | None,
        seed: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.space = space
        self.dropout = dropout
        table = text_table(backbone).detach()
        shape = (space.num_levels, space.codebook_size, table.shape[1])
        self.code_embedding = CodeEmbedding(initial_codes(codebooks_LKD, shape, table, seed))
        self.code_head = CodeHead(initial_codes(codebooks_LKD, shape, table, seed))

    def hidden(
        self,
        tokens_RT: torch.Tensor,
        positions_RT: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Return the hidden states [R, T, D] from which the next tokens are read; arguments as `run_backbone`."""
        is_sid = self.space.is_sid(tokens_RT)
        text_RTD = self.backbone.get_input_embeddings()(tokens_RT.masked_fill(is_sid, 0))
        sids_RT = tokens_RT.masked_fill(~is_sid, self.space.text_vocab)
        codes_RTD = self.code_embedding(self.space.level(sids_RT), self.space.code(sids_RT))
        inputs_RTD = functional.dropout(
            torch.where(is_sid[..., None], codes_RTD, text_RTD), self.dropout, self.training
        )
        hidden_RTD = run_backbone(self.backbone, inputs_RTD, positions_RT, mask=mask, cache=cache)
        return functional.dropout(hidden_RTD, self.dropout, self.training)

    def forward(
        self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor, targets_RT: torch.Tensor, tasks_RT: torch.Tensor
    ) -> list[Predictions]:
        """Predict every target token from the position before it.

        Returns:
            The text positions, then the positions of each level: 1 + L groups, each possibly empty. All of them always
            pass through their head, so that every parameter has a gradient on every rank.
        """
        hidden_RTD = self.hidden(tokens_RT, positions_RT)
        # An example's first token is its marker, never a target, so no target is read off another example's end.
        is_target = targets_RT[:, 1:]
        answers_M = tokens_RT[:, 1:][is_target]
        tasks_M = tasks_RT[:, 1:][is_target]
        hidden_MD = hidden_RTD[:, :-1][is_target]
        level_M = torch.where(self.space.is_sid(answers_M), self.space.level(answers_M), -1)
        groups = []
        for level in range(-1, self.space.num_levels):
            (rows,) = torch.nonzero(level_M == level, as_tuple=True)
            logits = self.text_logits(hidden_MD[rows]) if level < 0 else self.code_head(hidden_MD[rows], level)
            answers = answers_M[rows] if level < 0 else self.space.code(answers_M[rows])
            groups.append(Predictions(logits, answers, tasks_M[rows]))
        return groups

    def text_logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Return the logits of the text tokens."""
        head = self.backbone.get_output_embeddings()
        assert isinstance(head, nn.Module)
        logits: torch.Tensor = head(hidden_MD)
        return logits


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
