"""Builtin interests without a language model: from descriptions by a classifier or keyphrases, and from co-occurrence.

Shapes: N items, V interests, C classes of items, T terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer, TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from trialign.config.enrich import BuiltinInterestsConfig
from trialign.data.co_occurrence import co_occurrence
from trialign.data.dataset import Dataset
from trialign.enrich.evidence import CO_ENGAGEMENT, DESCRIPTION, ItemInterests
from trialign.enrich.interests import NO_EVIDENCE, evidence_of
from trialign.errors import ConfigError, DataError
from trialign.progress import tracked
from trialign.storefront.corpus import description_purposes

NOTHING_FOUND = "nothing_found"
_CORPUS_SEED = 0
_SMOOTHING = 5.0
"""Co-occurrences by which an item's company is drawn to the whole catalogue's: little company says little."""

Scores = NDArray[np.float64]


class BuiltinInterests:
    """Interests without a language model.

    Args:
        settings: of `enrich/interests=builtin`; co-occurrence is counted in train histories alone.

    Raises:
        ConfigError: the settings allow no interest at all.
    """

    def __init__(self, settings: BuiltinInterestsConfig) -> None:
        if not (settings.descriptions or settings.co_engagement):
            raise ConfigError(
                "enrich.interests.descriptions=false with co_engagement=false",
                rule="interests come from somewhere",
                remedy="set one of them to true, or enrich/interests=none",
            )
        self._settings = settings

    def interests(self, dataset: Dataset, captions: Sequence[str], *, storefront: bool) -> list[ItemInterests]:
        """Return the interests of every item.

        Args:
            dataset: the catalogue and its train histories.
            captions: one per item, or none at all.
            storefront: whether the catalogue is the storefront's.

        Raises:
            DataError: the catalogue has too little text.
        """
        by_corpus = self._settings.fitted_on == "storefront" or (self._settings.fitted_on == "auto" and storefront)
        names, own_NV = self._read(dataset) if by_corpus else keyphrases(dataset, captions)
        method = "classifier of descriptions" if by_corpus else "keyphrases"
        found: list[list[tuple[str, float, str]]] = [[] for _ in range(dataset.num_items)]
        if self._settings.descriptions:
            self._add(found, own_NV, own_NV, names, DESCRIPTION)
        if self._settings.co_engagement:
            together_NN = co_occurrence(dataset.train_histories(), dataset.num_items, self._settings.window)
            share_NV, surprise_NV = company(together_NN, own_NV)
            self._add(found, share_NV, surprise_NV, names, CO_ENGAGEMENT)
        told = [bool(evidence) for evidence in evidence_of(dataset, captions)]
        return [_row(entries, f"builtin {method}", known) for entries, known in zip(found, told, strict=True)]

    def _read(self, dataset: Dataset) -> tuple[list[str], csr_array]:
        texts = dataset.items["description"].to_pylist()
        names, chances_NV = purposes_of(texts, self._settings.num_pairs)
        chances_NV[[not text for text in texts]] = 0.0
        return names, csr_array(chances_NV)

    def _add(
        self,
        found: list[list[tuple[str, float, str]]],
        confidences_NV: csr_array,
        ranking_NV: csr_array,
        names: Sequence[str],
        origin: str,
    ) -> None:
        """Add each item's best interests; skip low confidences, and phrases whose words are all in better ones."""
        least = self._settings.min_confidence if origin == DESCRIPTION else self._settings.min_share
        for item, entries in enumerate(found):
            row = slice(ranking_NV.indptr[item], ranking_NV.indptr[item + 1])
            terms, ranks = ranking_NV.indices[row], ranking_NV.data[row]
            confidences_V = confidences_NV[[item], :].toarray()[0]
            words: set[str] = set()
            chosen: list[tuple[str, float, str]] = []
            for term in terms[np.lexsort((terms, -ranks))]:
                if len(chosen) == self._settings.max_interests:
                    break
                if confidences_V[term] >= least and not words.issuperset(names[term].split()):
                    words.update(names[term].split())
                    chosen.append((names[term], float(confidences_V[term]), origin))
            entries += chosen


def purposes_of(texts: Sequence[str], num_pairs: int) -> tuple[list[str], Scores]:
    """Return the storefront's purposes and, for every text, their probabilities by a classifier on word bigrams.

    It is fitted on the pretraining corpus alone, which shares no item with any catalogue.
    """
    corpus = list(description_purposes(_CORPUS_SEED, num_pairs))
    # Bigrams, because the verb before a paraphrase decides what it means.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    model = SGDClassifier(loss="log_loss", alpha=1e-6, max_iter=20, tol=None, random_state=0)
    model.fit(vectorizer.fit_transform([pair.description for pair in corpus]), [pair.purpose for pair in corpus])
    return list(map(str, model.classes_)), model.predict_proba(vectorizer.transform(texts)).astype(np.float64)


def keyphrases(dataset: Dataset, captions: Sequence[str]) -> tuple[list[str], csr_array]:
    """Return phrases, and for each item the scores of the phrases in its texts: how specific they are to its class.

    Class-based TF-IDF (Grootendorst 2022, arXiv 2203.05794, equation 1): all texts of a class, here of the deepest
    category, are one document; tf(t, c) log(1 + A / f(t)), f over all classes, A words per class. A phrase of two words
    counts as two words. Scores are relative to the best of the class. Words in more than half of the items (and in
    more than ten), such as those that begin every caption, are ignored.

    Raises:
        DataError: no phrase occurs in two items.
    """
    texts = [" . ".join(evidence.values()) for evidence in evidence_of(dataset, captions)]
    word = r"[^\W\d_]{3,}"
    try:
        words = CountVectorizer(token_pattern=word, binary=True)
        in_items_W = np.asarray(words.fit_transform(tracked(texts, "texts read", len(texts))).sum(axis=0)).ravel()
        everywhere = words.get_feature_names_out()[in_items_W > max(10, len(texts) / 2)]
        counter = CountVectorizer(
            ngram_range=(1, 2),
            stop_words=[*ENGLISH_STOP_WORDS, *everywhere],
            min_df=2,
            token_pattern=word,
            dtype=np.float64,
        )
        counts_NT = csr_array(counter.fit_transform(tracked(texts, "texts read for phrases", len(texts))))
    except ValueError as cause:
        raise DataError(
            f"no keyphrases in {len(texts)} texts: {cause}",
            rule="some word occurs in two items",
            remedy="fill in titles and descriptions, or choose enrich/interests=none, transformers or endpoint",
        ) from cause
    names = counter.get_feature_names_out().tolist()
    classes, class_N = np.unique(
        [path[-1] if path else "" for path in dataset.items["categories"].to_pylist()], return_inverse=True
    )
    member_CN = csr_array((np.ones(len(texts)), (class_N, np.arange(len(texts)))), shape=(len(classes), len(texts)))
    counts_CT = csr_array(member_CN @ counts_NT)
    words_T = np.array([1.0 + name.count(" ") for name in names])
    frequency_T = counts_CT.sum(axis=0)
    weight_T = words_T * np.log1p(counts_CT.sum() / len(classes) / frequency_T)
    scores_CT = csr_array(counts_CT @ diags_array(weight_T))
    best_C = np.maximum(scores_CT.max(axis=1).toarray().ravel(), 1e-12)
    scores_CT = csr_array(diags_array(1.0 / best_C) @ scores_CT)
    return names, csr_array(scores_CT[class_N] * (counts_NT > 0))


def company(together_NN: csr_array, own_NV: csr_array) -> tuple[csr_array, csr_array]:
    """Return the interests of the items that each item co-occurs with.

    Args:
        together_NN: co-occurrence counts; zero on the diagonal, so that an item does not count for itself.
        own_NV: the interests from each item's own texts.

    Returns:
        The share of each interest among the co-occurring items; and its ranking: share x log(share / share over all
        items), where that is positive.
    """
    company_N = together_NN.sum(axis=1)
    base_V = (own_NV.T @ company_N) / max(company_N.sum(), 1.0)
    told_NV = csr_array(together_NN @ own_NV)
    items = np.repeat(np.arange(told_NV.shape[0]), np.diff(told_NV.indptr))
    base = base_V[told_NV.indices]
    share = (told_NV.data + _SMOOTHING * base) / (company_N[items] + _SMOOTHING)
    surprise = share * np.log(np.maximum(share, 1e-12) / np.maximum(base, 1e-12))
    # Copies, because `eliminate_zeros` changes the index arrays in place, and the shares use the same arrays.
    ranked_NV = csr_array((np.maximum(surprise, 0.0), told_NV.indices.copy(), told_NV.indptr.copy()), told_NV.shape)
    ranked_NV.eliminate_zeros()
    return csr_array((share, told_NV.indices, told_NV.indptr), shape=told_NV.shape), ranked_NV


def _row(entries: list[tuple[str, float, str]], source: str, has_evidence: bool) -> ItemInterests:
    """Return an item's interests, strongest first; an interest found twice keeps its higher confidence."""
    best: dict[str, tuple[float, str]] = {}
    for name, confidence, origin in entries:
        if name not in best or confidence > best[name][0]:
            best[name] = (confidence, origin)
    if not best:
        return ItemInterests(failure=NOTHING_FOUND if has_evidence else NO_EVIDENCE)
    names = sorted(best, key=lambda name: (-best[name][0], name))
    confidences, origins = zip(*(best[name] for name in names), strict=True)
    return ItemInterests(tuple(names), tuple(min(1.0, found) for found in confidences), origins, source)
