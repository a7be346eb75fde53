import numpy as np
import pytest

from trialign.embed import store
from trialign.embed.store import Modality
from trialign.errors import DataError

KEYS = ["a", "b", "c"]


def make_modality(dim=4, absent=()):
    present_N = ~np.isin(np.arange(3), absent)
    vectors_ND = np.random.default_rng(dim).normal(size=(3, dim)).astype(np.float32)
    return Modality(np.where(present_N[:, None], vectors_ND, 0).astype(np.float32), present_N)


def test_reads_back_bit_for_bit_and_memory_mapped(tmp_path):
    given = {"text": make_modality(4), "image": make_modality(6, absent=[1])}
    store.save(tmp_path, given, KEYS)
    found = store.load(tmp_path)
    assert list(found) == ["image", "text"]
    for name, modality in given.items():
        assert isinstance(found[name].vectors_ND, np.memmap)
        assert found[name].vectors_ND.tobytes() == modality.vectors_ND.tobytes()
        assert (found[name].present_N == modality.present_N).all()
        assert found[name].dim == modality.dim


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_item_and_modality(tmp_path, bad):
    image = make_modality()
    image.vectors_ND[1, 2] = bad
    with pytest.raises(DataError, match="the image vector of item 'b' holds NaN or infinity") as raised:
        store.save(tmp_path, {"text": make_modality(), "image": image}, KEYS)
    assert "embed/image=none" in raised.value.remedy


def test_an_absent_row_may_hold_anything(tmp_path):
    image = make_modality(absent=[1])
    image.vectors_ND[1, 2] = np.nan
    store.save(tmp_path, {"image": image}, KEYS)
    assert not store.load(tmp_path)["image"].present_N[1]


def test_no_modality_is_refused(tmp_path):
    with pytest.raises(DataError, match="no modality is embedded"):
        store.save(tmp_path, {}, KEYS)


def test_a_modality_that_no_item_has_is_refused(tmp_path):
    with pytest.raises(DataError, match="no item has a vector of the image modality"):
        store.save(tmp_path, {"image": make_modality(absent=[0, 1, 2])}, KEYS)


def test_modalities_of_two_catalogues_are_refused(tmp_path):
    longer = Modality(np.zeros((5, 2), np.float32), np.ones(5, bool))
    with pytest.raises(DataError, match="unequal length"):
        store.save(tmp_path, {"text": make_modality(), "image": longer}, KEYS)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no vectors") as raised:
        store.load(tmp_path)
    assert "trialign embed" in raised.value.remedy
