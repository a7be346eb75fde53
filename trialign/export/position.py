"""The form of the encoding `position`: one graph from histories to the best items, and the code that runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.config.export import ExportConfig
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie, score_items
from trialign.errors import ConfigError, StageError
from trialign.export.files import rank
from trialign.export.form import BundleRanker, Comparison, Source, copy_file
from trialign.export.graph import write_graphs
from trialign.export.items import read_items
from trialign.foreign import Json
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.save_load import TrainedGenerator
from trialign.types import NO_ITEM, Items

SEARCHES, LIBRARY, COMPARED = False, "pytorch", "histories, by every graph and in batches of several sizes"
_TOLERANCE = 1e-4
_BATCHES = (1, 7, 64)
_K, _BEAMS = 10, 50


def facts(trained: TrainedGenerator, settings: ExportConfig) -> dict[str, Json]:
    """Return nothing more than what every bundle says.

    Raises:
        ConfigError: weights in bfloat16 are asked for.
    """
    if settings.dtype != "float32":
        raise ConfigError(
            f"export.dtype={settings.dtype} with train.items.encoding={trained.generator.items.name}",
            rule="a graph computes in float32, exactly what the generator does",
            remedy="leave export.dtype=float32",
        )
    return {}


def write(source: Source, folder: Path, settings: ExportConfig) -> None:
    """Write the graphs and the code that runs them."""
    write_graphs(source.load(), folder, compiled=settings.compile == "aoti", onnx=settings.onnx)
    copy_file("rank.py", folder)


def compare(source: Source, folder: Path, _settings: ExportConfig) -> Comparison:
    """Rank for real histories by every graph: batches of several sizes, items left out or not, few items in stock.

    Scores must be those that training gives the items, and at every place at least those of the generator's ranker,
    which is exact where the model is one softmax. So no better item is missing.

    Raises:
        StageError: a graph ranks otherwise.
    """
    reference = source.ranker(_BEAMS)
    trie = Trie.from_index(PrefixIndex.from_codes(source.sids.codes_NL, source.sids.codebook_size))
    rankers = {
        name: rank.load(folder, name) for name in (rank.GRAPH, rank.COMPILED, rank.ONNX) if (folder / name).exists()
    }
    rows, largest = 0, 0.0
    for question in _questions(source):
        _, least_BK = reference.rank(question.histories, _K, exclude=question.exclude, stock=question.stock_BN)
        for (name, ranker), size in product(rankers.items(), _BATCHES):
            asked = question.first(size)
            found = ranker.rank_items(asked.histories, _K, exclude=asked.exclude, stock=asked.stock_BN)
            true_BK = _log_probs(reference, trie, asked.histories, found[0])
            apart = _difference(found, true_BK, least_BK[:size], asked.allowed())
            if not apart <= _TOLERANCE:
                raise StageError(
                    f"{name} ranks otherwise than the generator in a batch of {size}, by {apart:.2g}",
                    rule=f"items and scores are the same, within {_TOLERANCE}",
                    remedy="report this with the config of the backbone",
                )
            rows, largest = rows + size, max(largest, apart)
    return Comparison(rows, largest)


def load(folder: Path, *, num_beams: int) -> BundleRanker:
    """Return the ranker of a bundle, by trialign's copy of the bundle's code; it has no beams."""
    del num_beams
    return rank.load(folder)


def commands(folder: Path) -> str:
    """Return the part of the README that says how the bundle is loaded."""
    items = read_items(folder)
    parts = {rank.GRAPH: _COMMANDS, rank.COMPILED: _COMPILED, rank.ONNX: _ONNX}
    text = "\n".join(part for name, part in parts.items() if (folder / name).exists())
    return text.replace("@KEYS@", json.dumps(items.keys[:2])).replace("@ITEMS@", f"{len(items.keys):,}").strip()


@dataclass(frozen=True)
class _Question:
    """Histories to rank for, as `rank_items` takes them."""

    histories: list[Items]
    exclude: list[Items] | None
    stock_BN: NDArray[np.bool_]

    def first(self, size: int) -> _Question:
        """Return the question for the first histories."""
        return _Question(self.histories[:size], self.exclude and self.exclude[:size], self.stock_BN[:size])

    def allowed(self) -> NDArray[np.bool_]:
        """Return which items may be answered, [B, N]."""
        allowed_BN = self.stock_BN.copy()
        for row, items in zip(allowed_BN, self.exclude or (), strict=False):
            row[items] = False
        return allowed_BN


def _questions(source: Source) -> list[_Question]:
    """Return questions about the longest history, none, the shortest and others; the first has few items in stock."""
    held_out = source.dataset.evaluation("test").histories or source.dataset.train_histories()
    by_length = sorted(held_out, key=len)
    histories = list(islice(cycle([by_length[-1], by_length[0][:0], by_length[0], *held_out]), _BATCHES[-1]))
    all_BN = np.ones((len(histories), source.sids.num_items), np.bool_)
    some_BN = np.random.default_rng(0).random(all_BN.shape) < 0.5
    some_BN[0, _K // 2 :] = False
    exclude = [np.unique(history) for history in histories]
    return [_Question(histories, None, all_BN), _Question(histories, exclude, some_BN)]


@torch.inference_mode()
def _log_probs(
    reference: GeneratorRanker, trie: Trie, histories: list[Items], items_BK: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return the log-probabilities of items by their paths through the trie, as training computes them."""
    asked = torch.from_numpy(items_BK.astype(np.int64)).clamp(min=0)
    found: NDArray[np.float32] = score_items(reference.scorer(histories), trie, asked).log_probs_BG.numpy()
    return found


def _difference(
    found: tuple[NDArray[np.int32], NDArray[np.float32]],
    true_BK: NDArray[np.float32],
    least_BK: NDArray[np.float32],
    allowed_BN: NDArray[np.bool_],
) -> float:
    """Return the largest fault of a score; infinite where an item may not be there, is there twice, or is missing."""
    items_BK, scores_BK = found
    there_BK = items_BK != NO_ITEM
    for items, there, allowed in zip(items_BK, there_BK, allowed_BN, strict=True):
        if not allowed[items[there]].all() or len(set(items[there])) != min(len(items), allowed.sum()):
            return np.inf
    scores_Q, true_Q, least_Q = (values_BK[there_BK] for values_BK in (scores_BK, true_BK, least_BK))
    return float(max(np.abs(scores_Q - true_Q).max(), (least_Q - scores_Q).max()))


_COMMANDS = """\
## Ask it

Lists of item keys in, lists of (item, log-probability) out. It needs torch and numpy. In this folder:

```python
import sys
sys.path.insert(0, ".")
from rank import load
recommender = load(".")
(found,) = recommender.rank([@KEYS@], k=5)
for item, score in found:
    print(f"{score:.3f} {item}")
```

`rank` also takes `exclude` (a list for each history), `allowed` and `blocked` (for all): they leave the scores of all
other items as they are. Titles and semantic IDs of the items are in `items/`.

graph.pt2 computes the log-probability of each of the @ITEMS@ items and takes the best: no search, and no item is
missed. It takes three arrays: `histories_BT`, int64, item indices, oldest first, padded with -1 at the end;
`allowed_BN`, bool, the items that may be recommended; and `places_K`, int64 0..k-1, of which only the length counts,
at least 2. It returns item indices and log-probabilities, [B, k]. It reads items alone: the texts that the generator
was trained on, and its vocabulary, are not in it.
"""

_COMPILED = """\
graph-cpu.aoti.pt2 is the same graph, compiled to machine code by AOTInductor. `load` takes it where torch and the
instructions of the processor are those of graph-cpu.aoti.json. Machine code runs as it is: load only what you trust.
"""

_ONNX = """\
graph.onnx is the same graph for ONNX runtimes. With onnxruntime, and without torch:

```python
import sys
sys.path.insert(0, ".")
from rank import load
print(load(".", "graph.onnx").rank([@KEYS@], k=5))
```
"""
