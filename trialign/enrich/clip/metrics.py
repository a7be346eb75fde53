"""Zero-shot tag metrics of a CLIP: its scores of a tag vocabulary against the tags that pictures have.

Shapes: N pictures, V tags.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Scores = NDArray[np.float32]
Flags = NDArray[np.bool_]


def tag_accuracy(scores_NV: Scores, tags_NV: Flags) -> float:
    """Return the share of pictures whose best tag is one of their own; pictures without a tag do not count."""
    tagged_N = tags_NV.any(axis=1)
    best_N = scores_NV[tagged_N].argmax(axis=1)
    return float(np.take_along_axis(tags_NV[tagged_N], best_N[:, None], axis=1).mean())


def commonest_accuracy(tags_NV: Flags) -> float:
    """Return the `tag_accuracy` of naming the most frequent tag every time."""
    return float(tags_NV[tags_NV.any(axis=1)].mean(axis=0).max())


def log_shares(tags_MV: Flags) -> NDArray[np.float32]:
    """Return the log-frequency of each tag if every picture draws one of its own: float32 [V].

    Half a draw is added to each tag, so that a tag that no picture has stays possible.
    """
    drawn_MV = tags_MV / tags_MV.sum(axis=1, keepdims=True).clip(1)
    counts_V = drawn_MV.sum(axis=0) + 0.5
    shares_V: NDArray[np.float32] = np.log(counts_V / counts_V.sum()).astype(np.float32)
    return shares_V


def tag_auc(scores_NV: Scores, tags_NV: Flags) -> list[float | None]:
    """Return the ROC AUC of each tag over the pictures; None where all pictures or none have the tag."""
    return [
        float(roc_auc_score(tags_N, scores_N)) if tags_N.any() and not tags_N.all() else None
        for scores_N, tags_N in zip(scores_NV.T, tags_NV.T, strict=True)
    ]
