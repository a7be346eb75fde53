"""Build labeled pairs of item and interest without a judge: own interests against those of others (method.md 8).

An item's own interests are positives. Negatives are interests of similar items (near), of dissimilar items (far), and
phrases that fit everything (generic), unless the item has them itself. These labels are weaker than a judge's, because
an interest of a similar item may fit this item too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from trialign.errors import DataError
from trialign.runtime.seeding import numpy_generator
from trialign.storefront.corpus import description_purposes

KINDS = ("own", "near", "far", "generic")
GENERIC = ("everyday use", "a nice gift", "good quality", "great value for money", "people who like shopping")
_NEAR = 10
"""Items that count as near; the farther half of the catalogue counts as far."""


@dataclass(frozen=True)
class Labels:
    """M pairs: `items_M`, `interests`, whether each is good, and its kind as an index into KINDS."""

    items_M: NDArray[np.int64]
    interests: list[str]
    good_M: NDArray[np.bool_]
    kinds_M: NDArray[np.int64]

    def of(self, items: NDArray[np.int64]) -> Labels:
        """Return the pairs of some items."""
        rows = np.flatnonzero(np.isin(self.items_M, items))
        return Labels(self.items_M[rows], [self.interests[row] for row in rows], self.good_M[rows], self.kinds_M[rows])


def builtin_labels(interests: Sequence[Sequence[str]], texts: Sequence[str], seed: int) -> Labels:
    """Return, for every own interest, itself and one negative of each kind.

    Args:
        interests: of each item; may be empty.
        texts: of each item; their TF-IDF similarity says which items are near or far.
        seed: of the draws.

    Raises:
        DataError: too few items have interests, or all have the same.
    """
    known = np.array([item for item, found in enumerate(interests) if found])
    if len(known) < 2 * _NEAR:
        raise DataError(
            f"{len(known)} of {len(interests)} items have interests",
            rule=f"own interests are told from those of others; at least {2 * _NEAR} items have some",
            remedy="let enrich make interests first: enrich/interests=builtin",
        )
    nearness_IN = _nearness([texts[item] for item in known])
    draws = numpy_generator(seed, "labels")
    rows: list[tuple[int, str, int]] = []
    for place, item in enumerate(known.tolist()):
        own = set(interests[item])
        order = np.argsort(-nearness_IN[place], kind="stable")
        order = order[order != place]
        pools = [
            [phrase for other in order[:_NEAR] for phrase in interests[known[other]]],
            [phrase for other in draws.choice(order[len(order) // 2 :], _NEAR) for phrase in interests[known[other]]],
            list(GENERIC),
        ]
        for phrase in interests[item]:
            rows.append((item, phrase, 0))
            for kind, pool in enumerate(pools, start=1):
                if others := [found for found in pool if found not in own]:
                    rows.append((item, others[draws.integers(len(others))], kind))
    kinds_M = np.array([kind for _, _, kind in rows])
    if not ((kinds_M == 1) | (kinds_M == 2)).any():
        raise DataError(
            "all items have the same interests",
            rule="interests tell items apart",
            remedy="look at enrich/interests.parquet; mine more specific ones",
        )
    return Labels(np.array([item for item, _, _ in rows]), [phrase for _, phrase, _ in rows], kinds_M == 0, kinds_M)


def corpus_labels(num_pairs: int, titles: Sequence[str], seed: int) -> tuple[Labels, list[str]]:
    """Return descriptions of the storefront's pretraining corpus, each with its purpose and with another one.

    Half of them follow a random one of `titles`, as in an item's text. The other half are alone: from these a small
    encoder learns affirmation and negation, which it did not learn behind titles.

    Returns:
        The pairs, and the texts that their `items_M` number.
    """
    pairs = list(description_purposes(seed, num_pairs))
    purposes = sorted({pair.purpose for pair in pairs})
    draws = numpy_generator(seed, "reward corpus")
    others = [[other for other in purposes if other != pair.purpose] for pair in pairs]
    wrong = [found[draws.integers(len(found))] for found in others]
    good_M = np.arange(2 * num_pairs) < num_pairs
    labels = Labels(
        np.tile(np.arange(num_pairs), 2), [pair.purpose for pair in pairs] + wrong, good_M, (~good_M).astype(np.int64)
    )
    # Random, not in turn: purposes take turns, so a title in turn would reveal the purpose.
    before = [titles[place] for place in draws.integers(len(titles), size=num_pairs)]
    alone = draws.random(num_pairs) < 0.5
    return labels, [
        pair.description if bare else f"{title}\n{pair.description}"
        for title, pair, bare in zip(before, pairs, alone, strict=True)
    ]


def _nearness(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return cosines of TF-IDF vectors [I, I]; 4 million of them for 2,000 items."""
    try:
        words = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:  # no text has a word
        return np.zeros((len(texts), len(texts)))
    found: NDArray[np.float64] = (words @ words.T).toarray()
    return found
