"""The builtin text encoder: TF-IDF and a truncated SVD, fitted on the catalogue itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from trialign.config.embed import TfidfConfig
from trialign.embed.store import Modality
from trialign.errors import DataError
from trialign.progress import Progress, tracked


class TfidfSvd:
    """Latent semantic analysis: TF-IDF, truncated SVD, rows normalized to length 1.

    Without the normalization a text of rare terms, which D dimensions hardly capture, would have a vector near zero,
    and a vector's length would say how common the item's words are.

    Args:
        settings: of `embed/text=tfidf`. The width is capped at the matrix's smaller side; `min_df` falls to 1 if fewer
            than two terms reach it.
    """

    def __init__(self, settings: TfidfConfig) -> None:
        self.dim = settings.dim
        self.min_df = settings.min_df
        self.notes: list[str] = []
        self._fitted: tuple[TfidfVectorizer, TruncatedSVD] | None = None

    def encode(self, texts: Sequence[str]) -> Modality:
        """Fit on `texts` and return their vectors; an item without a term of the vocabulary has none.

        Raises:
            DataError: the texts hold fewer than two terms, or there are fewer than two items.
        """
        self.notes = []
        vectorizer, weights_NV = self._weigh(texts)
        dim = min(self.dim, *weights_NV.shape)
        if dim < self.dim:
            self.notes.append(
                f"text vectors are {dim} wide, not {self.dim}: {weights_NV.shape[0]} items, {weights_NV.shape[1]} terms"
            )
        # The seed is fixed: the solver's random start only changes the approximation error, not an experiment.
        reduction = TruncatedSVD(dim, algorithm="randomized", n_iter=4, random_state=0)
        # With equal texts the SVD computes 0 / 0 for the explained variance, which is not used.
        with Progress("texts to vectors"), np.errstate(invalid="ignore"):
            vectors_ND = reduction.fit_transform(weights_NV)
        self._fitted = vectorizer, reduction
        present_N = np.diff(weights_NV.indptr) > 0
        return Modality(normalize(vectors_ND).astype(np.float32), present_N)

    def _weigh(self, texts: Sequence[str]) -> tuple[TfidfVectorizer, Any]:
        """Return the fitted TF-IDF and its weights [N, V]."""
        for min_df in dict.fromkeys((self.min_df, 1)):
            vectorizer = TfidfVectorizer(min_df=min_df, sublinear_tf=True, dtype=np.float32)
            try:
                weights_NV = vectorizer.fit_transform(tracked(texts, "texts read", len(texts)))
            except ValueError:  # no term at all
                continue
            if min(weights_NV.shape) < 2:
                continue
            if min_df < self.min_df:
                self.notes.append(
                    f"every term counts: fewer than two are in min_df={self.min_df} of {len(texts)} items"
                )
            return vectorizer, weights_NV
        raise DataError(
            f"the texts of {len(texts)} items hold fewer than two different terms",
            rule="texts tell items apart by their terms, words of two letters or digits and more",
            remedy="set embed/text=none embed/collaborative=ppmi, or fill in titles and descriptions",
        )

    def transform(self, texts: Sequence[str]) -> Modality:
        """Return the vectors of other texts in the space that `encode` fitted; one without a known term has none."""
        assert self._fitted is not None, "encode first"
        vectorizer, reduction = self._fitted
        weights_NV = vectorizer.transform(texts)
        present_N = np.diff(weights_NV.indptr) > 0
        return Modality(normalize(reduction.transform(weights_NV)).astype(np.float32), present_N)
