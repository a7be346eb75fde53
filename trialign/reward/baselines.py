"""Baselines of the reward model: the interest alone, and its word overlap with the item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trialign.reward.labels import Labels


def interest_only(train: Labels, held_out: Labels) -> NDArray[np.float64]:
    """Return scores by a logistic regression on the words of the interest; it never sees the item."""
    words = TfidfVectorizer(ngram_range=(1, 2)).fit(train.interests)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(words.transform(train.interests), train.good_M)
    scores: NDArray[np.float64] = model.decision_function(words.transform(held_out.interests))
    return scores


def overlap(texts: Sequence[str], held_out: Labels) -> NDArray[np.float64]:
    """Return the cosine of the TF-IDF vectors of item and interest."""
    words = TfidfVectorizer(sublinear_tf=True).fit([*texts, *held_out.interests])
    items = words.transform([texts[item] for item in held_out.items_M])
    scores: NDArray[np.float64] = np.asarray(items.multiply(words.transform(held_out.interests)).sum(axis=1)).ravel()
    return scores
