"""Each attribute can be read where method.md 11 says it can, and nowhere else."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from trialign.config.data import StorefrontConfig
from trialign.data.source import RawData
from trialign.storefront import Storefront
from trialign.storefront.corpus import DescriptionPurpose, description_purposes, picture_sentences
from trialign.storefront.world import frozen_world

SHOP = Storefront(StorefrontConfig(num_users=10))
TRUTH = SHOP.attributes()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawData:
    return SHOP.load(tmp_path_factory.mktemp("storefront"))


@pytest.fixture(scope="module")
def pictures(raw: RawData) -> dict[str, bytes]:
    assert raw.images is not None
    return dict(raw.images())


@pytest.fixture(scope="module")
def corpus() -> list[DescriptionPurpose]:
    return list(description_purposes(0, 20_000))


def column(raw: RawData, name: str) -> np.ndarray:
    return np.array(raw.items[name].to_pylist(), dtype=object)


def all_text(raw: RawData) -> np.ndarray:
    return column(raw, "title") + " " + column(raw, "description") + " " + column(raw, "brand")


def accuracy(texts: np.ndarray, labels: np.ndarray, largest_ngram: int = 1) -> float:
    """Return the cross-validated accuracy of a linear probe on TF-IDF."""
    probe = make_pipeline(TfidfVectorizer(ngram_range=(1, largest_ngram)), RidgeClassifier())
    return float(cross_val_score(probe, texts, labels, cv=5).mean())


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).resize((8, 8), Image.Resampling.BOX)).ravel() / 255


def test_good_titles_tell_the_category_and_poor_items_tell_it_nowhere(raw: RawData) -> None:
    good = TRUTH.readable_N
    assert accuracy(column(raw, "title")[good], TRUTH.category_N[good]) >= 0.9
    probe = make_pipeline(TfidfVectorizer(), RidgeClassifier()).fit(all_text(raw)[good], TRUTH.category_N[good])
    assert probe.score(all_text(raw)[~good], TRUTH.category_N[~good]) < 0.1
    assert all((len(path) > 0) == readable for path, readable in zip(column(raw, "categories"), good, strict=True))


def test_pictures_tell_the_style_and_nothing_else(raw: RawData, pictures: dict[str, bytes]) -> None:
    keys = column(raw, "item")
    assert set(pictures) == set(keys[TRUTH.pictured_N])
    pixels_ND = np.stack([pixels(pictures[key]) for key in keys[TRUTH.pictured_N]])
    probe = LogisticRegression(max_iter=2000)
    style = cross_val_score(probe, pixels_ND, TRUTH.style_N[TRUTH.pictured_N], cv=3).mean()
    assert style >= 0.95
    assert cross_val_score(RidgeClassifier(), pixels_ND, TRUTH.purpose_N[TRUTH.pictured_N], cv=3).mean() < 0.2
    assert cross_val_score(RidgeClassifier(), pixels_ND, TRUTH.category_N[TRUTH.pictured_N], cv=3).mean() < 0.1


def test_no_text_tells_the_style(raw: RawData) -> None:
    assert accuracy(all_text(raw), TRUTH.style_N) < 0.2
    words = {word for text in all_text(raw) for word in text.lower().split()}
    assert not words & {style.name for style in frozen_world().styles}


@pytest.mark.parametrize("largest_ngram", [1, 2, 3])
def test_the_catalogue_alone_does_not_teach_the_purpose(raw: RawData, largest_ngram: int) -> None:
    assert accuracy(column(raw, "description"), TRUTH.purpose_N, largest_ngram) < 0.4


def test_who_has_read_the_corpus_knows_the_purpose(raw: RawData, corpus: list[DescriptionPurpose]) -> None:
    descriptions, purposes = zip(*corpus, strict=True)
    reader = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC()).fit(descriptions, purposes)
    truth = [frozen_world().purposes[purpose][0] for purpose in TRUTH.purpose_N]
    assert reader.score(column(raw, "description"), truth) >= 0.8


def test_a_paraphrase_belongs_to_one_purpose_and_its_first_word_to_one_paraphrase() -> None:
    first_words = Counter(phrase.split()[0] for _, phrases in frozen_world().purposes for phrase in phrases)
    assert set(first_words.values()) == {1}


def test_the_corpus_holds_no_item_of_the_catalogue(
    raw: RawData, pictures: dict[str, bytes], corpus: list[DescriptionPurpose]
) -> None:
    assert not {pair.description for pair in corpus} & set(column(raw, "description"))
    assert not {pair.picture for pair in picture_sentences(0, 400)} & set(pictures.values())


def test_the_corpus_shows_and_names_the_styles_of_the_catalogue(raw: RawData, pictures: dict[str, bytes]) -> None:
    pairs = list(picture_sentences(0, 400))
    looks = {style.name: style.look for style in frozen_world().styles}
    assert all(looks[pair.style] in pair.sentence for pair in pairs)
    assert Counter(pair.style for pair in pairs) == dict.fromkeys(looks, 50)
    viewer = LogisticRegression(max_iter=2000).fit(
        [pixels(pair.picture) for pair in pairs], [pair.style for pair in pairs]
    )
    shown = column(raw, "item")[TRUTH.pictured_N]
    truth = [frozen_world().styles[style].name for style in TRUTH.style_N[TRUTH.pictured_N]]
    assert viewer.score([pixels(pictures[key]) for key in shown], truth) >= 0.95


def test_texts_are_nearly_unique(raw: RawData) -> None:
    assert len(set(column(raw, "title"))) >= 0.99 * SHOP.settings.num_items
    assert len(set(column(raw, "description"))) >= 0.99 * SHOP.settings.num_items


def test_noise_comes_in_the_stated_shares() -> None:
    noise = frozen_world().noise
    assert np.mean(~TRUTH.pictured_N) == pytest.approx(noise["missing_image"], abs=0.03)
    assert np.mean(~TRUTH.readable_N) == pytest.approx(noise["poor_title"], abs=0.03)
    # Cold: a twentieth of a popularity of median 1 and log-deviation 0.4 is below 0.2, nothing else is.
    assert np.mean(TRUTH.popularity_N < 0.2) == pytest.approx(noise["cold"], abs=0.03)
