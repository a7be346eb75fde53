import numpy as np
import torch

from trialign.embed.store import Modality
from trialign.quantize.standardize import Standardizer, pack, unpack


def make_modality(seed=0):
    draws = np.random.default_rng(seed)
    present_N = draws.random(200) < 0.8
    vectors_ND = (draws.normal(size=(200, 5)) * [9.0, 3.0, 1.0, 1.0, 0.1] + 7.0).astype(np.float32)
    return Modality(np.where(present_N[:, None], vectors_ND, 0.0).astype(np.float32), present_N)


def test_present_rows_are_centred_with_mean_square_one():
    modality = make_modality()
    found_ND = Standardizer.fit(modality)(modality)
    present_MD = found_ND[torch.from_numpy(modality.present_N)]
    torch.testing.assert_close(present_MD.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(present_MD.square().mean(), torch.tensor(1.0))


def test_absent_rows_are_zero_and_do_not_count():
    modality = make_modality()
    found = Standardizer.fit(modality)
    assert (found(modality)[torch.from_numpy(~modality.present_N)] == 0).all()
    garbled = np.where(modality.present_N[:, None], modality.vectors_ND, np.nan).astype(np.float32)
    again = Standardizer.fit(Modality(garbled, modality.present_N))
    assert torch.equal(again.mean_D, found.mean_D)
    assert torch.equal(again(Modality(garbled, modality.present_N)), found(modality))


def test_the_shape_of_the_cloud_is_kept():
    modality = make_modality()
    found_ND = Standardizer.fit(modality)(modality)[torch.from_numpy(modality.present_N)]
    spread = found_ND.std(0) / torch.from_numpy(modality.vectors_ND[modality.present_N]).std(0)
    torch.testing.assert_close(spread, spread[:1].expand(5), rtol=1e-4, atol=0)


def test_a_constant_modality_becomes_zero():
    modality = Modality(np.full((4, 2), 3.0, np.float32), np.ones(4, bool))
    assert (Standardizer.fit(modality)(modality) == 0).all()


def test_packs_and_unpacks():
    found = {"text": Standardizer.fit(make_modality()), "image": Standardizer.fit(make_modality(1))}
    again = unpack(pack(found))
    assert list(again) == ["image", "text"]
    for name, one in found.items():
        assert torch.equal(again[name].mean_D, one.mean_D)
        assert again[name].scale == one.scale
