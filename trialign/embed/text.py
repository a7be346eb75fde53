"""The builtin text encoder: TF-IDF and a truncated SVD, fitted on the catalogue itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from trialign.embed.store import Modality
from trialign.errors import DataError
from trialign.progress import Pace, paced


class TfidfSvd:
    """Latent semantic analysis: TF-IDF, truncated SVD, rows brought to length 1.

    Without the last step a text of rare terms, little of which the D dimensions hold, would be a vector near zero, and
    items would be told apart by how common their words are.

    Args:
        dim: D, width of the vectors; lowered to the matrix's smaller side where that is less.
        min_df: a term occurs in at least this many items.
    """

    def __init__(self, dim: int, min_df: int) -> None:
        self.dim = dim
        self.min_df = min_df
        self.notes: list[str] = []
        self._fitted: tuple[TfidfVectorizer, TruncatedSVD] | None = None

    def encode(self, texts: Sequence[str]) -> Modality:
        """Fit on `texts` and return their vectors; an item none of whose terms is in the vocabulary has none.

        Raises:
            DataError: fewer than two terms occur in `min_df` items, or there are fewer than two items.
        """
        vectorizer = TfidfVectorizer(min_df=self.min_df, sublinear_tf=True, dtype=np.float32)
        try:
            weights_NV = vectorizer.fit_transform(paced(texts, "texts read", len(texts)))
            if min(weights_NV.shape) < 2:
                raise ValueError(f"it has {weights_NV.shape[0]} x {weights_NV.shape[1]} entries")
        except ValueError as cause:
            raise DataError(
                f"no vocabulary can be built from {len(texts)} item texts: {cause}",
                rule=f"two terms at least occur in at least min_df = {self.min_df} items each",
                remedy="set embed.text.min_df=1, or check that titles and descriptions are filled in",
            ) from cause
        dim = min(self.dim, *weights_NV.shape)
        self.notes = []
        if dim < self.dim:
            self.notes.append(
                f"text vectors are {dim} wide, not {self.dim}: {weights_NV.shape[0]} items, {weights_NV.shape[1]} terms"
            )
        # The randomised solver approximates one matrix; it is no draw that an experiment should vary.
        reduction = TruncatedSVD(dim, algorithm="randomized", n_iter=4, random_state=0)
        with Pace("texts to vectors"):
            vectors_ND = reduction.fit_transform(weights_NV)
        self._fitted = vectorizer, reduction
        present_N = np.diff(weights_NV.indptr) > 0
        return Modality(normalize(vectors_ND).astype(np.float32), present_N)

    def transform(self, texts: Sequence[str]) -> Modality:
        """Return the vectors of other texts in the space that `encode` fitted; one without a known term has none."""
        assert self._fitted is not None, "encode first"
        vectorizer, reduction = self._fitted
        weights_NV = vectorizer.transform(texts)
        present_N = np.diff(weights_NV.indptr) > 0
        return Modality(normalize(reduction.transform(weights_NV)).astype(np.float32), present_N)
