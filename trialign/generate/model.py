"""The generator: a backbone for text, and beside it what reads and writes items."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from trialign.generate.backbone import run_backbone, text_table
from trialign.generate.item_positions import ItemPositions
from trialign.generate.item_tokens import ItemTokens
from trialign.generate.loss import Predictions, TablePredictions


class Generator(nn.Module):
    """Reads rows of text and items, predicts the target positions.

    Args:
        backbone: a causal language model whose vocabulary is the text tokens; read through its input embeddings.
        items: reads and writes items; their tokens are those from the text vocabulary on.
        dropout: probability on the input vectors and on the hidden states before the heads.
    """

    def __init__(self, backbone: PreTrainedModel, items: ItemTokens | ItemPositions, *, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.items = items
        self.dropout = dropout
        self.text_vocab = len(text_table(backbone))

    def hidden(
        self,
        tokens_RT: torch.Tensor,
        positions_RT: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Return the hidden states [R, T, D] from which the next tokens are read; arguments as `run_backbone`."""
        is_item = tokens_RT >= self.text_vocab
        text_RTD = self.backbone.get_input_embeddings()(tokens_RT.masked_fill(is_item, 0))
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
            The text positions, then the groups of the item encoding, each possibly empty. All of them always pass
            through their head, so that every parameter has a gradient on every rank.
        """
        hidden_RTD = self.hidden(tokens_RT, positions_RT)
        # An example's first token is its marker, never a target, so no target is read off another example's end.
        is_target = targets_RT[:, 1:]
        answers_M = tokens_RT[:, 1:][is_target]
        tasks_M = tasks_RT[:, 1:][is_target]
        hidden_MD = hidden_RTD[:, :-1][is_target]
        is_item_M = answers_M >= self.text_vocab
        text, items = (torch.nonzero(wanted, as_tuple=True)[0] for wanted in (~is_item_M, is_item_M))
        return [
            Predictions(self.text_logits(hidden_MD[text]), answers_M[text], tasks_M[text]),
            *self.items.predict(hidden_MD[items], answers_M[items], tasks_M[items]),
        ]

    def text_logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Return the logits of the text tokens."""
        head = self.backbone.get_output_embeddings()
        assert isinstance(head, nn.Module)
        logits: torch.Tensor = head(hidden_MD)
        return logits
