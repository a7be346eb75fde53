"""The baseline sasrec (Kang & McAuley 2018), trained with full softmax cross-entropy; settings were not tuned.

A causal transformer over item vectors. An item's vector is its id embedding plus a projection of its text vector, the
same at input and output. Every position of every history is a target, and the softmax is over the whole catalogue:
sampled negatives cost a third of the recall (Petrov & Macdonald 2023, Klenitskiy & Vasilev 2023).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn import functional

from trialign.config.embed import TfidfConfig
from trialign.config.evaluate import SASRecConfig
from trialign.data.splits import windows
from trialign.embed.text import TfidfSvd
from trialign.errors import DataError, TrainingError
from trialign.files import write_atomically
from trialign.foreign import parse_json
from trialign.generate.encodings.repeats import bias_of, seen_before, seen_in_prompts
from trialign.generate.softmax import Marks, add_at, table_cross_entropy
from trialign.progress import Progress
from trialign.runtime.optim import adamw, cosine_with_warmup
from trialign.runtime.seeding import numpy_generator, seed_global
from trialign.types import NO_ITEM, Items

logger = logging.getLogger(__name__)


class SASRec(nn.Module):
    """A `Ranker` by self-attention over the last items of a history.

    Args:
        num_items: N.
        text_ND: the items' text vectors, [N, any width]; None leaves text out.
        dim: D, width.
        num_layers: pre-norm transformer layers with a feed-forward branch four times as wide.
        num_heads: attention heads.
        dropout: on the input and on what every branch adds.
        max_history: number of last items that are read.
        repeats: learn the repeat term, as the generator does.
    """

    name: ClassVar[str] = "sasrec"

    def __init__(
        self,
        num_items: int,
        text_ND: torch.Tensor | None,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        max_history: int,
        repeats: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = {"dim": dim, "num_layers": num_layers, "num_heads": num_heads, "dropout": dropout}
        self.num_items = num_items
        self.max_history = max_history
        self.notes: list[str] = []
        self.ids = nn.Embedding(num_items, dim)
        nn.init.normal_(self.ids.weight, std=0.02)
        self.register_buffer("text_ND", text_ND)
        self.text = None if text_ND is None else nn.Linear(text_ND.shape[1], dim, bias=False)
        self.repeats = nn.Parameter(torch.zeros(1)) if repeats else None
        self.places = nn.Embedding(max_history + 1, dim)
        nn.init.normal_(self.places.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def item_vectors(self) -> torch.Tensor:
        """Return the vectors of all items, [N, D]."""
        vectors_ND: torch.Tensor = self.ids.weight
        return vectors_ND if self.text is None else vectors_ND + self.text(self.text_ND)

    def forward(self, items_BT: torch.Tensor, vectors_ND: torch.Tensor) -> torch.Tensor:
        """Return the hidden states that predict the next item, [B, T + 1, D]; position 0 has read no item.

        Args:
            items_BT: int64, oldest first, padded on the right with any item, since attention is causal.
            vectors_ND: `item_vectors()`.
        """
        read_BTD = functional.pad(vectors_ND[items_BT] * vectors_ND.shape[1] ** 0.5, (0, 0, 1, 0))
        hidden_BTD = self.dropout(read_BTD + self.places.weight[: read_BTD.shape[1]])
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD)
        normed: torch.Tensor = self.norm(hidden_BTD)
        return normed

    @classmethod
    def fit(
        cls,
        histories: Sequence[Items],
        num_items: int,
        settings: SASRecConfig,
        *,
        texts: Sequence[str],
        seed: int,
    ) -> Self:
        """Train on whole train histories, oldest item first; those beyond max_history become half-overlapping windows.

        Args:
            histories: train histories.
            num_items: N.
            settings: of `baselines.sasrec`; the learning rate is the peak of a cosine with 5 % warm-up.
            texts: one per item; ignored, with a log line, if they do not distinguish items.
            seed: of weights, dropout and order.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        seed_global(seed, "sasrec", "weights")
        text_ND, notes = _text_vectors(texts, settings.text_dim) if settings.text_dim else (None, [])
        model = cls(
            num_items,
            text_ND,
            dim=settings.dim,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            dropout=settings.dropout,
            max_history=settings.max_history,
            repeats=settings.repeats,
        )
        model.notes = notes
        epochs, batches = settings.epochs, _Batches(histories, settings.max_history, settings.batch_items)
        learning_rate, weight_decay = settings.learning_rate, settings.weight_decay
        optimizer = adamw(model, learning_rate=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))
        schedule = cosine_with_warmup(optimizer, num_steps=epochs * len(batches), warmup=0.05)
        seed_global(seed, "sasrec", "dropout")
        with Progress("steps of sasrec", epochs * len(batches)) as progress:
            for epoch in range(epochs):
                total = torch.zeros(())
                for items_BT, targets_BT in batches.shuffled(numpy_generator(seed, "sasrec", epoch)):
                    loss = _loss(model, items_BT, targets_BT)
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    total += loss.detach()
                    progress.add()
                if not total.isfinite():
                    raise TrainingError(
                        f"the loss of sasrec is {total.item()} in epoch {epoch + 1}",
                        rule="the loss is a finite number",
                        remedy="lower baselines.sasrec.learning_rate",
                    )
                logger.info("  sasrec: epoch %d of %d, loss %.3f", epoch + 1, epochs, total.item() / len(batches))
        return model.eval()

    @torch.inference_mode()
    def rank(
        self, histories: list[Items], k: int, *, exclude: Sequence[Items] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items and their log-probabilities; see `trialign.types.Ranker`."""
        items_BK = np.full((len(histories), k), NO_ITEM, np.int32)
        scores_BK = np.full((len(histories), k), -np.inf, np.float32)
        vectors_ND = self.item_vectors()
        num_ranked = min(k, self.num_items)
        order = np.argsort([len(history) for history in histories], kind="stable")
        for rows in np.array_split(order, -(-len(order) // 256)):
            recent = [torch.from_numpy(np.array(histories[row][-self.max_history :], np.int64)) for row in rows]
            lengths_B = torch.tensor([len(history) for history in recent])
            items_BT = nn.utils.rnn.pad_sequence(recent, batch_first=True)
            hidden_BTD = self(items_BT, vectors_ND)
            logits_BN = hidden_BTD[torch.arange(len(rows)), lengths_B] @ vectors_ND.T
            if self.repeats is not None:
                seen = seen_in_prompts(items_BT, torch.arange(items_BT.shape[1]) < lengths_B[:, None])
                logits_BN = add_at(logits_BN, (seen.rows_P, seen.items_P), bias_of(self.repeats))
            scores_BN = logits_BN.log_softmax(1)
            if exclude is not None:
                for place, row in enumerate(rows):
                    scores_BN[place, torch.from_numpy(np.array(exclude[row], np.int64))] = -torch.inf
            scores, items = scores_BN.topk(num_ranked, dim=1)
            items_BK[rows, :num_ranked] = items.masked_fill(scores == -torch.inf, NO_ITEM).numpy()
            scores_BK[rows, :num_ranked] = scores.numpy()
        return items_BK, scores_BK

    def save(self, folder: Path) -> None:
        """Write `sasrec.safetensors` and `baseline.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / "sasrec.safetensors"))
        text_dim = 0 if self.text is None else self.text.in_features
        record = {
            "name": self.name,
            "num_items": self.num_items,
            "text_dim": text_dim,
            "options": self.sizes | {"max_history": self.max_history, "repeats": self.repeats is not None},
        }
        write_atomically(folder / "baseline.json", json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, bit for bit.

        Raises:
            DataError: the folder holds no such baseline, or another one.
        """
        try:
            record = parse_json((folder / "baseline.json").read_text())
            if record["name"] != cls.name:
                raise ValueError(f"it holds a '{record['name']}'")
            width = record["text_dim"]
            text_ND = torch.zeros(record["num_items"], width) if width else None
            model = cls(record["num_items"], text_ND, **record["options"])
            load_model(model, folder / "sasrec.safetensors")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as cause:
            raise DataError(
                f"{folder} cannot be read: {cause}",
                rule="a fitted sasrec is baseline.json and sasrec.safetensors, as `trialign baselines` writes them",
                remedy="run `trialign baselines` again with rebuild=true",
            ) from cause
        return model.eval()


def _text_vectors(texts: Sequence[str], dim: int) -> tuple[torch.Tensor | None, list[str]]:
    """Return the items' text vectors and a note for the log; None if the texts do not distinguish items."""
    encoder = TfidfSvd(TfidfConfig(dim=dim, min_df=2))
    try:
        return torch.from_numpy(encoder.encode(texts).vectors_ND), encoder.notes
    except DataError as cause:
        return None, [f"reads item ids alone: {cause.value}"]


class _Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.heads = nn.Linear(dim, 3 * dim)
        self.joined = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        split = self.heads(self.norm(hidden_BTD)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        hidden_BTD = hidden_BTD + self.dropout(self.joined(seen.transpose(1, 2).flatten(2)))
        added: torch.Tensor = hidden_BTD + self.dropout(self.feed_forward(hidden_BTD))
        return added


class _Batches:
    """Batches of windows of similar length, to limit padding."""

    def __init__(self, histories: Sequence[Items], max_history: int, batch_items: int) -> None:
        cut = windows(np.array([len(history) for history in histories]), max_history)
        pieces = zip(cut.histories, cut.starts, cut.lengths, cut.first_target, strict=True)
        self._windows = [
            (histories[history][start : start + length], first) for history, start, length, first in pieces
        ]
        self._lengths = cut.lengths
        ends = np.cumsum(np.sort(cut.lengths))
        self._bounds = np.searchsorted(ends, np.arange(batch_items, ends[-1], batch_items))

    def __len__(self) -> int:
        return len(self._bounds) + 1

    def shuffled(self, draws: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (items_BT, targets_BT) in a new order; a target of NO_ITEM is none."""
        # Shuffle the windows of each length, then the batches.
        order = np.lexsort((draws.random(len(self._lengths)), self._lengths))
        batches = np.split(order, self._bounds)
        for number in draws.permutation(len(batches)):
            rows = [self._windows[window] for window in batches[number]]
            width = max((len(items) for items, _ in rows), default=0)
            items_BT = np.zeros((len(rows), width), np.int64)
            targets_BT = np.full((len(rows), width), NO_ITEM, np.int64)
            for row, (items, first) in enumerate(rows):
                items_BT[row, : len(items)] = items
                targets_BT[row, first : len(items)] = items[first:]
            yield torch.from_numpy(items_BT), torch.from_numpy(targets_BT)


def _loss(model: SASRec, items_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    vectors_ND = model.item_vectors()
    is_target_BT = targets_BT != NO_ITEM
    hidden_MD = model(items_BT, vectors_ND)[:, :-1][is_target_BT]
    answers_M = targets_BT[is_target_BT]
    marks = None
    if model.repeats is not None:
        positions_BT = torch.arange(items_BT.shape[1]).expand_as(items_BT)
        rows_M, columns_M = torch.nonzero(is_target_BT, as_tuple=True)
        seen = seen_before(items_BT, torch.ones_like(is_target_BT), positions_BT, (rows_M, columns_M))
        marks = Marks(seen.rows_P, seen.items_P, bias_of(model.repeats))
    return table_cross_entropy(hidden_MD, vectors_ND, answers_M, marks).total / len(answers_M)
