"""Item labels, such as style or caption, to compare prefixes of semantic IDs with; -1 if an item has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.config.embed import TfidfConfig
from trialign.embed.text import TfidfSvd
from trialign.quantize.kmeans import kmeans
from trialign.runtime.seeding import torch_generator

_MOST = 64
"""More different texts than so many are brought together in as many clusters."""
_DIM = 64


def evidence_labels(
    truth: Mapping[str, Sequence[str | None]], captions: Sequence[str], interests: Sequence[Sequence[str]]
) -> dict[str, NDArray[np.int64]]:
    """Return the labels by name: `style` and `purpose` of generated items, `caption`, `interest`.

    Args:
        truth: the true attributes of every item; see Dataset.truth.
        captions: one per item, or none at all.
        interests: of each item, strongest first, of which only the first is used; or none at all.
    """
    texts = {name: [value or "" for value in truth[name]] for name in ("style", "purpose") if name in truth}
    texts |= {"caption": list(captions), "interest": [own[0] if own else "" for own in interests]}
    found = {name: text_labels(own) for name, own in texts.items() if own}
    return {name: labels_N for name, labels_N in found.items() if labels_N.max() > 0}


def text_labels(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each text, equal for equal texts; very many different texts are clustered. -1 for ""."""
    distinct = sorted({text for text in texts if text})
    number_of = {text: number for number, text in enumerate(distinct)}
    if len(distinct) > _MOST:
        vectors_ND = torch.from_numpy(TfidfSvd(TfidfConfig(dim=_DIM, min_df=1)).encode(distinct).vectors_ND)
        found = kmeans(vectors_ND, _MOST, num_iterations=20, generator=torch_generator(0, "semid", "labels"))
        number_of = dict(zip(distinct, found.codes_N.tolist(), strict=True))
    return np.array([number_of.get(text, -1) for text in texts], np.int64)
