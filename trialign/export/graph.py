"""One graph for the encoding `position`: from a batch of histories to the best items, by torch.export.

The model is a softmax over the nodes of the joint level, then one over the children of each node below it. So the
log-probability of every item is computed at once, and the best k are exact: there is no search. The graph holds what
this needs: the backbone's layers, one vector per item and the task token's; text and its vocabulary stay behind.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import nn

from trialign.errors import ConfigError
from trialign.export.files import rank
from trialign.generate.backbone import ARCHITECTURES, embedding_scale, run_backbone
from trialign.generate.encodings.position import PositionEncoding
from trialign.generate.model import text_vectors
from trialign.generate.save_load import TrainedGenerator
from trialign.runtime.transformers import PreTrainedModel

_MOST_BATCH = 2**16
_INPUTS, _OUTPUTS = ["histories_BT", "allowed_BN", "places_K"], ["items_BK", "scores_BK"]


class ItemGraph(nn.Module):
    """Ranks the catalogue after histories, exactly: what the exported graph computes.

    Args:
        trained: a generator of the encoding `position` in float32 on the CPU, and its template; they are not changed.
    """

    task_D: torch.Tensor

    def __init__(self, trained: TrainedGenerator) -> None:
        super().__init__()
        generator = trained.generator.eval()
        items = generator.items
        assert isinstance(items, PositionEncoding)
        self.backbone = _layers_of(generator.backbone)
        self.queries = copy.deepcopy(items.queries)
        self.read_scale = items.read_scale
        self.bias = 0.0 if items.repeats is None else float(items.repeats().detach())
        with torch.no_grad():
            task = trained.template.tokenizer.task_token("history_to_item")
            scale = embedding_scale(generator.backbone)
            self.register_buffer("task_D", text_vectors(generator.backbone, generator.own)[task].clone() * scale)
            self.levels = nn.ModuleList(_levels(items))

    @property
    def num_items(self) -> int:
        """N."""
        return self._last.vectors_SD.shape[0]

    @property
    def _last(self) -> _Level:
        return cast(_Level, self.levels[-1])

    def forward(
        self, histories_BT: torch.Tensor, allowed_BN: torch.Tensor, places_K: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k best allowed items, int64 [B, k], best first, and their log-probabilities.

        Args:
            histories_BT: int64, items oldest first, padded with -1 at the end; T is at least 1.
            allowed_BN: bool, which items may be returned. Where fewer than k may, the rest has the score -inf.
            places_K: int64 0..k-1, of which only the number counts: it must be an input, and a number is none in every
                runtime. 2 to N.
        """
        is_item_BT = histories_BT >= 0
        items_BT = histories_BT.clamp(min=0)
        hidden_BD = self._read(items_BT, is_item_BT)
        seen_BN = self._seen(items_BT, is_item_BT) if self.bias else None
        scores_BS = hidden_BD.new_zeros((hidden_BD.shape[0], 1))
        for query, level in zip(self.queries, cast(Iterable[_Level], self.levels), strict=True):
            logits_BS = query(hidden_BD) @ level.vectors_SD.T
            if seen_BN is not None:
                logits_BS = logits_BS + self.bias * level.all_seen(seen_BN)
            scores_BS = level.log_probs(logits_BS, scores_BS)
        scores, items = scores_BS.masked_fill(~allowed_BN, -torch.inf).topk(places_K.shape[0], dim=1)
        return items, scores

    def _read(self, items_BT: torch.Tensor, is_item_BT: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [B, D] after the histories, which may be empty."""
        batch, length = items_BT.shape[0], items_BT.shape[1] + 1
        read_BTD = self._last.vectors_SD[items_BT] * self.read_scale
        read_BTD = torch.cat([self.task_D.expand(batch, 1, -1), read_BTD], dim=1)
        positions_T = torch.arange(length, device=items_BT.device)
        # Padding is at the end, so the causal mask hides it. With a mask, nothing looks for packed examples.
        later_TT = positions_T > positions_T[:, None]
        mask_TT = read_BTD.new_zeros((length, length)).masked_fill(later_TT, -torch.inf)
        hidden_BTD = run_backbone(
            self.backbone, read_BTD, positions_T.expand(batch, -1), mask=mask_TT.expand(batch, 1, -1, -1)
        )
        last_B11 = is_item_BT.sum(dim=1)[:, None, None]
        return hidden_BTD.gather(1, last_B11.expand(-1, 1, hidden_BTD.shape[2]))[:, 0]

    def _seen(self, items_BT: torch.Tensor, is_item_BT: torch.Tensor) -> torch.Tensor:
        """Return which items each history holds, float [B, N], without a shape that depends on data."""
        spare_BT = torch.where(is_item_BT, items_BT, self.num_items)
        room = self.task_D.new_zeros((items_BT.shape[0], self.num_items + 1))
        return room.scatter(1, spare_BT, torch.ones_like(spare_BT, dtype=room.dtype))[:, : self.num_items]


def require_tools(*, compiled: bool, onnx: bool) -> None:
    """Raise an error if this machine lacks what writes a graph; arguments as `write_graphs`.

    Raises:
        ConfigError: a package or the compiler is missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if compiled and shutil.which(compiler) is None:
        raise ConfigError(
            f"export.compile=aoti without the compiler {compiler}",
            rule="AOTInductor writes C++ and compiles it",
            remedy="install g++, or name a compiler in the variable CXX, or set export.compile=none",
        )
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if onnx and lacking:
        raise ConfigError(
            f"export.onnx=true without {', '.join(lacking)}",
            rule="graph.onnx is written by onnxscript, and run by onnxruntime before it is trusted",
            remedy="pip install 'trialign[onnx]', or set export.onnx=false",
        )


def write_graphs(trained: TrainedGenerator, folder: Path, *, compiled: bool, onnx: bool) -> None:
    """Write graph.pt2, and the other graphs that are asked for.

    Args:
        trained: as `ItemGraph`.
        folder: of the bundle.
        compiled: write the package of AOTInductor for processors like this one.
        onnx: write graph.onnx.

    Raises:
        ConfigError: the backbone, or a catalogue of one item, has no graph.
    """
    with torch.no_grad():
        program = _exported(trained)
        torch.export.save(program, folder / rank.GRAPH)
        if compiled:
            # The number of threads is the server's choice, not that of the machine that compiles.
            options = {"cpp.dynamic_threads": True}
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / rank.COMPILED), inductor_configs=options
            )
            (folder / rank.COMPILED_FOR).write_text(json.dumps(rank.machine(), indent=2) + "\n")
        if onnx:
            written = torch.onnx.export(program, input_names=_INPUTS, output_names=_OUTPUTS, dynamo=True, verbose=False)
            assert written is not None
            written.save(folder / rank.ONNX)


def _exported(trained: TrainedGenerator) -> torch.export.ExportedProgram:
    graph = ItemGraph(trained).requires_grad_(False)
    num_items, kind = graph.num_items, trained.generator.backbone.config.model_type
    if num_items < 2:
        raise ConfigError(
            "a catalogue of one item",
            rule="a graph ranks at least two",
            remedy="there is nothing to rank: leave it out",
        )
    batch = torch.export.Dim("batch", min=1, max=_MOST_BATCH)
    shapes = {
        "histories_BT": {0: batch, 1: torch.export.Dim("length", min=1, max=max(2, trained.max_history))},
        "allowed_BN": {0: batch},
        "places_K": {0: torch.export.Dim("k", min=2, max=num_items)},
    }
    example = (torch.zeros((3, 2), dtype=torch.int64), torch.ones((3, num_items), dtype=torch.bool), torch.arange(2))
    try:
        return torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
    except Exception as cause:  # of every kind, by what a backbone does
        raise ConfigError(
            f"{kind}: torch.export makes no graph of it: {str(cause).splitlines()[0]}",
            rule="a graph is one, for every batch and every length of a history",
            remedy="train with another architecture: " + ", ".join(ARCHITECTURES),
        ) from cause


class _Level(nn.Module):
    """The nodes of the joint level or of one below it; those of the last level are in the order of the items.

    Args:
        vectors_SD: the nodes' vectors.
        parent_S: int64, each node's parent one level up; None: one softmax over all nodes.
        node_N: int64, each item's node.
    """

    vectors_SD: torch.Tensor
    parent_S: torch.Tensor | None
    node_N: torch.Tensor | None
    size_S: torch.Tensor | None

    def __init__(self, vectors_SD: torch.Tensor, parent_S: torch.Tensor | None, node_N: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("vectors_SD", vectors_SD.contiguous())
        self.register_buffer("parent_S", parent_S)
        self.register_buffer("node_N", node_N)
        self.register_buffer("size_S", None if node_N is None else torch.bincount(node_N).to(vectors_SD.dtype))

    def all_seen(self, seen_BN: torch.Tensor) -> torch.Tensor:
        """Return 1 for the nodes all of whose items were seen, else 0, [B, S]."""
        if self.node_N is None or self.size_S is None:
            return seen_BN
        counts_BS = seen_BN.new_zeros((seen_BN.shape[0], self.size_S.shape[0])).index_add(1, self.node_N, seen_BN)
        return (counts_BS == self.size_S).to(seen_BN.dtype)

    def log_probs(self, logits_BS: torch.Tensor, above_BP: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the nodes, given those of the level above."""
        if self.parent_S is None:
            return logits_BS.log_softmax(dim=1)
        parent_BS = self.parent_S.expand(logits_BS.shape[0], -1)
        least_BP = torch.full_like(above_BP, -torch.inf)
        largest_BP = least_BP.scatter_reduce(1, parent_BS, logits_BS, "amax")
        shifted_BS = logits_BS - largest_BP.gather(1, parent_BS)
        sums_BP = torch.zeros_like(above_BP).index_add(1, self.parent_S, shifted_BS.exp())
        return shifted_BS + (above_BP - sums_BP.log()).gather(1, parent_BS)


def _levels(items: PositionEncoding) -> list[_Level]:
    vectors = items.search_vectors()
    vectors[-1] = vectors[-1][items.leaf_of_item_N]
    node_LN = [node_N[items.leaf_of_item_N] for node_N in items.node_of_leaf_LN[items.joint : -1]]
    levels: list[_Level] = []
    for place, vectors_SD in enumerate(vectors):
        node_N = node_LN[place] if place < len(node_LN) else None
        parent_S = None
        if place:
            own_N = torch.arange(len(vectors_SD)) if node_N is None else node_N
            parent_S = torch.empty(len(vectors_SD), dtype=torch.int64)
            parent_S[own_N] = node_LN[place - 1]
        levels.append(_Level(vectors_SD, parent_S, node_N))
    return levels


def _layers_of(backbone: PreTrainedModel) -> PreTrainedModel:
    """Return a copy without input and output embeddings of text, which reading items does not need."""
    read, write = backbone.get_input_embeddings(), backbone.get_output_embeddings()
    kept = {id(found): nn.Identity() for found in (read, write)}
    bare: PreTrainedModel = copy.deepcopy(backbone, kept)  # type: ignore[arg-type]  # a memo of what is not copied
    bare.eval()
    return bare
