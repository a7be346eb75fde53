"""The generator: a causal language model, and next to it the modules that embed and predict items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from trialign.decode.path import ItemPaths, Trie, score_items
from trialign.generate.backbone import embedding_scale, run_backbone, text_table
from trialign.generate.encodings.encoding import ItemEncoding
from trialign.generate.loss import Predictions, TablePredictions
from trialign.runtime.seeding import torch_generator
from trialign.runtime.transformers import PreTrainedModel


class AddedTokens(nn.Module):
    """Input and output vectors of the special tokens that are added to a pretrained vocabulary.

    Args:
        num: number of tokens.
        table_VD: the backbone's input embeddings; new ones start in random directions with their average norm.
        head_VD: its output embeddings, likewise.
        seed: of the random directions.
    """

    def __init__(self, num: int, table_VD: torch.Tensor, head_VD: torch.Tensor, seed: int) -> None:
        super().__init__()
        draws = torch_generator(seed, "own tokens")
        shape = (num, table_VD.shape[1])
        self.embedding = nn.Embedding(*shape, _weight=_as_long(table_VD, num, draws))
        self.head = OutputTable(*shape, _weight=_as_long(head_VD, num, draws))


class OutputTable(nn.Embedding):
    """One output vector per token, exempt from weight decay like every table.

    It is used in its own forward only, since a sharding strategy gathers parameters around a module's forward.
    """

    def forward(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Return the logits [M, num]."""
        return functional.linear(hidden_MD, self.weight)


class Generator(nn.Module):
    """Reads rows of text and items and predicts their target positions.

    Args:
        backbone: a causal language model with the text vocabulary; it gets input embeddings, not token ids.
        items: embeds and predicts items; their token ids follow the text vocabulary.
        dropout: probability on the input vectors and on the hidden states before the heads.
        own: the added special tokens, last of the text tokens; None if the backbone's vocabulary has them.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        items: ItemEncoding,
        *,
        dropout: float,
        own: AddedTokens | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.items = items
        self.dropout = dropout
        self.own = own
        self._rows = len(text_table(backbone))
        self.text_vocab = self._rows + (0 if own is None else own.embedding.num_embeddings)

    def hidden(
        self,
        tokens_RT: torch.Tensor,
        positions_RT: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Return the hidden states [R, T, D] that predict the next tokens; arguments as `run_backbone`."""
        is_item = tokens_RT >= self.text_vocab
        text_RTD = self._text_vectors(tokens_RT.masked_fill(is_item, 0))
        items_RTD = self.items.embed(tokens_RT.masked_fill(~is_item, self.text_vocab))
        read_RTD = torch.where(is_item[..., None], items_RTD, text_RTD)
        inputs_RTD = functional.dropout(read_RTD, self.dropout, self.training)
        hidden_RTD = run_backbone(self.backbone, inputs_RTD, positions_RT, mask=mask, cache=cache)
        return functional.dropout(hidden_RTD, self.dropout, self.training)

    def forward(
        self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor, targets_RT: torch.Tensor, tasks_RT: torch.Tensor
    ) -> list[Predictions | TablePredictions]:
        """Predict every target from the position before it.

        Returns:
            The text positions, then the groups of the item encoding, each possibly empty. Empty groups pass through
            their heads too, so that every parameter has a gradient on every rank.
        """
        hidden_RTD = self.hidden(tokens_RT, positions_RT)
        # An example begins with its task token, never a target, so no target is predicted from another example.
        is_target = targets_RT[:, 1:]
        answers_M = tokens_RT[:, 1:][is_target]
        tasks_M = tasks_RT[:, 1:][is_target]
        hidden_MD = hidden_RTD[:, :-1][is_target]
        is_item_M = answers_M >= self.text_vocab
        text, items = (torch.nonzero(wanted, as_tuple=True)[0] for wanted in (~is_item_M, is_item_M))
        rows_M, columns_M = torch.nonzero(is_target, as_tuple=True)
        seen = self.items.seen_before(tokens_RT, positions_RT, (rows_M[items], columns_M[items] + 1))
        return [
            Predictions(self.text_logits(hidden_MD[text]), answers_M[text], tasks_M[text]),
            *self.items.predict(hidden_MD[items], answers_M[items], tasks_M[items], seen),
        ]

    def score_candidates(self, prompts: Sequence[NDArray[np.int64]], trie: Trie, items_BG: torch.Tensor) -> ItemPaths:
        """Return the `ItemPaths` of items after prompts, with gradients if they are enabled; see `score_items`.

        A method of the whole module, because a sharding strategy gathers parameters around the module's methods.
        """
        return score_items(self.items.scorer(self, prompts), trie, items_BG)

    def text_logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Return the logits of the text tokens."""
        head = self.backbone.get_output_embeddings()
        assert isinstance(head, nn.Module)
        logits: torch.Tensor = head(hidden_MD)
        if self.own is None:
            return logits
        return torch.cat([logits, self.own.head(hidden_MD)], dim=-1)

    def _text_vectors(self, tokens_RT: torch.Tensor) -> torch.Tensor:
        table = self.backbone.get_input_embeddings()
        if self.own is None:
            found: torch.Tensor = table(tokens_RT)
            return found
        is_own = tokens_RT >= self._rows
        own_RTD: torch.Tensor = self.own.embedding((tokens_RT - self._rows).clamp(min=0))
        return torch.where(is_own[..., None], own_RTD, table(tokens_RT.masked_fill(is_own, 0)))


def text_vectors(backbone: PreTrainedModel, own: AddedTokens | None) -> torch.Tensor:
    """Return the unscaled input embeddings of all text tokens, added ones last, [V, D], without gradient."""
    table_VD = text_table(backbone).detach()
    if table_VD.is_meta:
        return torch.ones(()).expand(
            len(table_VD) + (0 if own is None else own.embedding.num_embeddings), table_VD.shape[1]
        )
    if own is None:
        return table_VD
    return torch.cat([table_VD, own.embedding.weight.detach() / embedding_scale(backbone)])


def _as_long(like_VD: torch.Tensor, num: int, draws: torch.Generator) -> torch.Tensor:
    directions_ND = functional.normalize(torch.randn(num, like_VD.shape[1], generator=draws), dim=1)
    length = 1.0 if like_VD.is_meta else like_VD.detach().float().norm(dim=1).mean().cpu()
    long_ND: torch.Tensor = directions_ND * length
    return long_ND
