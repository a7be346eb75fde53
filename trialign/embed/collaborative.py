"""Collaborative item vectors from co-occurrence in train histories: PPMI and a truncated SVD.

Positive pointwise mutual information of co-occurrence, factorized (Levy and Goldberg 2014, "Neural word embedding as
implicit matrix factorization"); smoothing and the square root of the singular values are those of Levy, Goldberg and
Dagan 2015, "Improving distributional similarity with lessons learned from word embeddings".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from trialign.config.embed import PpmiConfig
from trialign.data.co_occurrence import co_occurrence
from trialign.embed.store import Modality
from trialign.errors import DataError
from trialign.progress import Progress
from trialign.types import Items

_NEIGHBOURS = 10


class PpmiSvd:
    """Encode items by PPMI and a truncated SVD; an item that co-occurs with no other has no vector of its own.

    Args:
        settings: of `embed/collaborative=ppmi`; the width is lowered to what the matrix allows. `text_prior`: see
            `shrink`.
    """

    def __init__(self, settings: PpmiConfig) -> None:
        self.settings = settings
        self.notes: list[str] = []

    def encode(self, histories: Sequence[Items], num_items: int, text: Modality | None) -> Modality:
        """Return the vectors of the items that co-occur with another, or with `text_prior` resemble one that does.

        Args:
            histories: item indices, oldest first, without any held-out event.
            num_items: N.
            text: the items' text vectors; `text_prior` shrinks towards neighbors in them.

        Raises:
            DataError: nothing co-occurs.
        """
        settings = self.settings
        counts_NN = co_occurrence(histories, num_items, settings.window)
        if not counts_NN.nnz:
            raise DataError(
                f"no two items are in one of the {len(histories)} train histories",
                rule="collaborative vectors need histories of two items or more",
                remedy="bring more events per user; or, where items have texts or pictures that are embedded, set "
                "embed/collaborative=none",
            )
        ppmi_NN = ppmi(counts_NN, settings.smoothing)
        present_N = np.diff(counts_NN.indptr) > 0
        dim = min(settings.dim, int(present_N.sum()))
        if dim < settings.dim:
            self.notes = [f"collaborative vectors are {dim} wide, not {settings.dim}: so many items co-occur"]
        # The seed is fixed: the solver's random start only changes the approximation error, not an experiment.
        with Progress("what is chosen together to vectors"):
            left_ND, values_D, _ = randomized_svd(ppmi_NN, dim, n_iter=4, random_state=0)
        vectors_ND = normalize(left_ND * np.sqrt(values_D)).astype(np.float32)
        present_N &= vectors_ND.any(axis=1)
        found = Modality(vectors_ND, present_N)
        if not settings.text_prior:
            return found
        assert text is not None, "config.checks refuses a prior of texts without texts"
        events_N = np.bincount(np.concatenate(histories), minlength=num_items)
        return shrink(found, text, events_N, settings.text_prior)


def shrink(collaborative: Modality, text: Modality, events_N: NDArray[np.int64], prior: float) -> Modality:
    """Shrink the vectors of rarely chosen items towards those of their ten nearest neighbors in text.

    The vector of an item with five events is mostly noise. The empirical Bayes estimate, with n the item's events, is
    (n x own + prior x mean of the neighbors) / (n + prior); means and results are normalized to length 1. A new item,
    which has only a text, gets its neighbors' mean.

    Args:
        collaborative: vectors of length 1.
        text: of the same items.
        events_N: how often each was chosen.
        prior: strength of the prior, in events.
    """
    told_N = np.flatnonzero(text.present_N)
    known_N = np.flatnonzero(text.present_N & collaborative.present_N)
    if not len(known_N):
        return collaborative
    finder = NearestNeighbors(n_neighbors=min(_NEIGHBOURS + 1, len(known_N)), metric="cosine", algorithm="brute")
    rows_TM = known_N[finder.fit(text.vectors_ND[known_N]).kneighbors(text.vectors_ND[told_N], return_distance=False)]
    others_TM = rows_TM != told_N[:, None]  # without the item itself, which need not come first
    others_TM &= others_TM.cumsum(axis=1) <= _NEIGHBOURS
    sums_TD = np.zeros((len(told_N), collaborative.dim), np.float32)
    for rows_T, others_T in zip(rows_TM.T, others_TM.T, strict=True):
        sums_TD += collaborative.vectors_ND[rows_T] * others_T[:, None]
    vectors_ND = collaborative.vectors_ND * events_N[:, None]
    vectors_ND[told_N] += prior * normalize(sums_TD)
    vectors_ND = normalize(vectors_ND).astype(np.float32)
    return Modality(vectors_ND, vectors_ND.any(axis=1))


def ppmi(counts_NN: csr_array, smoothing: float) -> csr_array:
    """Return max(0, log(p(i, j) / (p(i) p'(j)))), p'(j) proportional to the frequency of j to the power `smoothing`."""
    frequency_N = counts_NN.sum(axis=1)
    context_N = frequency_N**smoothing
    pairs = counts_NN.tocoo()
    expected = frequency_N[pairs.coords[0]] * context_N[pairs.coords[1]] / context_N.sum()
    information = np.log(pairs.data / expected)
    found = csr_array((np.maximum(information, 0.0), pairs.coords), shape=counts_NN.shape)
    found.eliminate_zeros()
    return found
