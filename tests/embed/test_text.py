import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from trialign.config.embed import TfidfConfig
from trialign.embed.evidence import item_texts
from trialign.embed.text import TfidfSvd
from trialign.errors import DataError


def make_texts(num_texts=60, seed=0):
    """Texts of three topics, with few words in common."""
    draws = np.random.default_rng(seed)
    topics = [[f"{topic}{n}" for n in range(30)] + ["common"] for topic in ("red", "green", "blue")]
    return [" ".join(draws.choice(topics[n % 3], 12)) for n in range(num_texts)]


def test_texts_join_what_is_known():
    items = pa.table(
        {
            "title": ["Lamp", "Chair", ""],
            "description": ["Bright.", "", ""],
            "brand": ["Lux", "", ""],
            "categories": [["Home", "Light"], ["Home"], []],
        }
    )
    assert item_texts(items) == ["Lamp\nBright.\nLux\nHome > Light", "Chair\nHome", ""]


def test_texts_of_one_topic_lie_together():
    vectors_ND = TfidfSvd(TfidfConfig(dim=3, min_df=1)).encode(make_texts()).vectors_ND
    cosine = vectors_ND @ vectors_ND.T
    same = np.arange(60)[:, None] % 3 == np.arange(60) % 3
    assert cosine[same].min() > cosine[~same].max()


def test_vectors_have_length_one():
    vectors_ND = TfidfSvd(TfidfConfig(dim=8, min_df=1)).encode(make_texts()).vectors_ND
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1.0, rtol=1e-5)
    assert vectors_ND.dtype == np.float32


def test_at_full_width_all_angles_are_those_of_tfidf():
    texts = make_texts(num_texts=20)
    found = TfidfSvd(TfidfConfig(dim=1000, min_df=1)).encode(texts).vectors_ND
    reference = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    np.testing.assert_allclose(found @ found.T, (reference @ reference.T).toarray(), atol=1e-4)


def test_a_width_beyond_the_catalogue_is_lowered_and_said():
    encoder = TfidfSvd(TfidfConfig(dim=256, min_df=1))
    modality = encoder.encode(make_texts(num_texts=20))
    assert modality.dim == 20
    assert encoder.notes == [note for note in encoder.notes if "20 wide, not 256" in note] != []
    encoder.encode(make_texts(num_texts=400))
    assert "91 terms" in encoder.notes[0]


def test_an_item_without_words_has_no_text_vector():
    modality = TfidfSvd(TfidfConfig(dim=4, min_df=2)).encode([*make_texts(), "", "unheard"])
    assert modality.present_N.tolist() == [True] * 60 + [False] * 2
    assert (modality.vectors_ND[60:] == 0).all()


def test_encoding_twice_gives_the_same_numbers():
    one, same = (TfidfSvd(TfidfConfig(dim=16, min_df=1)).encode(make_texts(200)).vectors_ND for _ in range(2))
    assert (one == same).all()


def test_a_catalogue_without_common_terms_is_read_by_all_its_terms_and_it_is_said():
    encoder, every = TfidfSvd(TfidfConfig(dim=4, min_df=2)), TfidfSvd(TfidfConfig(dim=4, min_df=1))
    texts = ["one lamp", "two chairs", "one"]
    assert encoder.encode(texts).vectors_ND.tobytes() == every.encode(texts).vectors_ND.tobytes()
    assert encoder.notes == ["every term counts: fewer than two are in min_df=2 of 3 items", *every.notes]


@pytest.mark.filterwarnings("error")
def test_equal_texts_are_equal_vectors_without_a_warning():
    vectors_ND = TfidfSvd(TfidfConfig(dim=4, min_df=2)).encode(["blue mug"] * 3).vectors_ND
    np.testing.assert_allclose(vectors_ND @ vectors_ND.T, 1.0, rtol=1e-5)


@pytest.mark.parametrize("texts", [["one", "one", "one"], ["", "", ""], ["a", "b"]])
def test_texts_of_fewer_than_two_terms_are_refused(texts):
    with pytest.raises(DataError, match=f"the texts of {len(texts)} items hold fewer than two") as raised:
        TfidfSvd(TfidfConfig(dim=4, min_df=2)).encode(texts)
    assert raised.value.remedy.startswith("set embed/text=none embed/collaborative=ppmi,")


def test_a_caption_stands_after_the_rest_where_the_catalogue_has_captions():
    items = pa.table(
        {
            "title": ["Lamp", "Chair"],
            "description": ["Bright.", ""],
            "brand": ["Lux", ""],
            "categories": [["Home", "Light"], []],
            "caption": ["A brass lamp on a desk.", ""],
        }
    )
    assert item_texts(items) == ["Lamp\nBright.\nLux\nHome > Light\nA brass lamp on a desk.", "Chair"]
