"""Recommend items with the graph of this folder: exactly, without a search.

Needs NumPy, and torch or onnxruntime. `load(folder).rank([["item-1", "item-2"]], k=10)` takes lists of item keys and
returns lists of (key, log-probability). The graph computes the log-probability of every item of the catalogue after
each history and takes the best ones, so a list is as long as it is asked for and misses nothing. Names end in the
shapes of their arrays: N items, B histories, T items of the longest one, K items of a list.
"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_ITEM = -1
"""Fills a list that is shorter than it was asked for, and pads histories."""

GRAPH, COMPILED, ONNX = "graph.pt2", "graph-cpu.aoti.pt2", "graph.onnx"
"""The graph for torch; compiled, for processors of one kind, in half the time; and for ONNX runtimes."""

COMPILED_FOR = "graph-cpu.aoti.json"
"""The torch and the processors that the compiled graph was made for."""

_MOST_CELLS = 2**25
"""Of the scores of one batch, so that they fit into little memory."""

Answer = tuple[NDArray[np.int64], NDArray[np.float32]]
Graph = Callable[[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]], Answer]
"""From histories_BT, allowed_BN and places_K to items_BK and scores_BK."""


class GraphRanker:
    """Ranks the catalogue for histories.

    Args:
        graph: of the bundle.
        keys: of the items, by index.
        max_history: how many of the last items of a history are read.
        batch_size: most histories that are computed at once.
    """

    def __init__(self, graph: Graph, keys: list[str], max_history: int, *, batch_size: int = 64) -> None:
        self.keys, self.max_history = keys, max_history
        self._graph = graph
        self._batch_size = max(1, min(batch_size, _MOST_CELLS // len(keys)))
        self._item_of = {key: item for item, key in enumerate(keys)}

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude: Sequence[Sequence[str]] | None = None,
        allowed: Iterable[str] | None = None,
        blocked: Iterable[str] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return the `k` best items of each history with their log-probabilities, best first.

        Args:
            histories: B lists of item keys, oldest first; the last `max_history` are read. An empty one is legal.
            k: how many items; fewer are returned where fewer may be.
            exclude: B lists of items that are left out, such as those a user knows.
            allowed: the only items that may be recommended to anybody; None: all.
            blocked: items that may be recommended to nobody.

        Raises:
            KeyError: the catalogue has no such item.
            ValueError: `k` is less than 1.
        """
        stock = None
        if allowed is not None or blocked is not None:
            stock = np.full(len(self.keys), allowed is None)
            stock[self._items(allowed or ())] = True
            stock[self._items(blocked or ())] = False
        out = None if exclude is None else [self._items(keys) for keys in exclude]
        items_BK, scores_BK = self.rank_items([self._items(keys) for keys in histories], k, exclude=out, stock=stock)
        found = zip(items_BK.tolist(), scores_BK.tolist(), strict=True)
        return [
            [(self.keys[item], score) for item, score in zip(items, scores, strict=True) if item != NO_ITEM]
            for items, scores in found
        ]

    def rank_items(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
        stock: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history by index, and their log-probabilities; NO_ITEM and -inf fill up.

        Args:
            histories: B arrays of item indices, oldest first.
            k: how many items.
            exclude: B arrays of items that are left out.
            stock: bool [N] or [B, N], the items that may be recommended; None: all.
        """
        if k < 1:
            raise ValueError(f"k={k}: ask for at least one item")
        items_BK = np.full((len(histories), k), NO_ITEM, dtype=np.int32)
        scores_BK = np.full((len(histories), k), -np.inf, dtype=np.float32)
        places_K = np.arange(min(max(k, 2), len(self.keys)))  # the graph returns at least two
        order = np.argsort([len(history) for history in histories], kind="stable")  # those of a length together
        for start in range(0, len(histories), self._batch_size):
            rows = order[start : start + self._batch_size]
            allowed_BN = np.ones((len(rows), len(self.keys)), dtype=np.bool_)
            if stock is not None:
                allowed_BN &= stock if stock.ndim == 1 else stock[rows]
            for allowed_N, row in zip(allowed_BN, rows, strict=True):
                if exclude is not None:
                    allowed_N[exclude[row]] = False
            items, scores = self._graph(self._padded([histories[row] for row in rows]), allowed_BN, places_K)
            items_BK[rows, : items.shape[1]] = np.where(scores > -np.inf, items, NO_ITEM)[:, :k]
            scores_BK[rows, : items.shape[1]] = scores[:, :k]
        return items_BK, scores_BK

    def _padded(self, histories: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
        read = [history[-self.max_history :] for history in histories]
        padded_BT = np.full((len(read), max(1, *map(len, read))), NO_ITEM, dtype=np.int64)
        for row, history in zip(padded_BT, read, strict=True):
            row[: len(history)] = history
        return padded_BT

    def _items(self, keys: Iterable[str]) -> NDArray[np.int64]:
        return np.array([self._item_of[key] for key in keys], dtype=np.int64)


def load(folder: Path | str, name: str | None = None) -> GraphRanker:
    """Return the ranker of a bundle.

    Args:
        folder: of the bundle.
        name: which of its graphs: graph.pt2, graph-cpu.aoti.pt2 or graph.onnx. None: the compiled one if it is there
            and was made for processors like this one, else graph.pt2.
    """
    folder = Path(folder)
    facts = json.loads((folder / "items" / "sids.json").read_text())
    if name is None:
        name = COMPILED if _runs_here(folder) else GRAPH
    open_graph = {GRAPH: _exported, COMPILED: _compiled, ONNX: _onnx}[name]
    return GraphRanker(open_graph(folder / name), facts["keys"], facts["max_history"])


def machine() -> dict[str, str]:
    """Return what a compiled graph depends on: torch, and the instructions of the processor."""
    import torch

    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return {"torch": torch.__version__, "machine": platform.machine(), "instructions": " ".join(sorted(flags.split()))}


def _runs_here(folder: Path) -> bool:
    """Return whether there is a compiled graph, made by this torch for processors like this one."""
    if not (folder / COMPILED).exists():
        return False
    same: bool = json.loads((folder / COMPILED_FOR).read_text()) == machine()
    if not same:
        warnings.warn(
            f"{COMPILED} was made by another torch or for other processors; {GRAPH} runs, slower", stacklevel=3
        )
    return same


def _exported(path: Path) -> Graph:
    import torch

    return _of_torch(torch.export.load(path).module(check_guards=False))


def _compiled(path: Path) -> Graph:
    import torch

    return _of_torch(torch._inductor.aoti_load_package(str(path)))


def _of_torch(graph: Callable[..., Any]) -> Graph:
    import torch

    @torch.inference_mode()
    def call(histories_BT: NDArray[np.int64], allowed_BN: NDArray[np.bool_], places_K: NDArray[np.int64]) -> Answer:
        items, scores = graph(*map(torch.from_numpy, (histories_BT, allowed_BN, places_K)))
        return items.numpy(), scores.numpy()

    return call


def _onnx(path: Path) -> Graph:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def call(histories_BT: NDArray[np.int64], allowed_BN: NDArray[np.bool_], places_K: NDArray[np.int64]) -> Answer:
        given = {"histories_BT": histories_BT, "allowed_BN": allowed_BN, "places_K": places_K}
        items, scores = session.run(["items_BK", "scores_BK"], given)
        return items, scores

    return call
