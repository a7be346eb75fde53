import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from trialign.config.embed import OpenClipConfig
from trialign.embed.image import OpenClipTower
from trialign.embed.store import Modality
from trialign.enrich.clip.model import save
from trialign.errors import ConfigError, DataError

KEYS = [f"k{n}" for n in range(60)]


def encode_picture(pixels, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, kind)
    return file.getvalue()


PALETTES = [[(220, 210, 170), (160, 60, 40)], [(60, 120, 70), (200, 220, 180)], [(30, 40, 90), (200, 200, 230)]]


def make_picture(palette, pattern, draws):
    """Stripes, checks or dots, at an offset and in shades of chance."""
    y, x = np.mgrid[:64, :64] + draws.integers(0, 16, size=(2, 1, 1))
    ink = [y // 8 % 2, (x // 8 + y // 8) % 2, (x % 16 - 8) ** 2 + (y % 16 - 8) ** 2 < 20][pattern][..., None]
    ground, color = np.array(PALETTES[palette]) + draws.integers(-15, 16, size=(2, 3))
    return encode_picture(np.where(ink, color, ground))


def encode(tower, images, keys=KEYS):
    """Return the vectors of all pictures, and which items have one."""
    vectors_ND, present_N = np.zeros((len(keys), 128), np.float32), np.zeros(len(keys), bool)
    for items, vectors_BD in tower.rows(images, keys, skip=0):
        vectors_ND[items], present_N[items] = vectors_BD, True
    return Modality(vectors_ND, present_N)


@pytest.fixture(scope="module")
def tower():
    return OpenClipTower(OpenClipConfig("", "trialign-tiny", checkpoint=None, seed=0, batch_size=16))


def make_images(num_images=60):
    draws = np.random.default_rng(0)
    return [(item, make_picture(item % 3, item % 2, draws)) for item in range(num_images)]


def test_neither_order_nor_batches_change_a_vector(tower):
    images = make_images()
    whole = encode(tower, images, KEYS)
    order = np.random.default_rng(1).permutation(60)
    smaller = OpenClipTower(OpenClipConfig("", "trialign-tiny", checkpoint=None, seed=0, batch_size=7))
    other = encode(smaller, (images[n] for n in order))
    assert whole.vectors_ND.shape == (60, 128)
    assert whole.present_N.all()
    np.testing.assert_allclose(other.vectors_ND, whole.vectors_ND, atol=1e-5)


def test_items_without_a_picture_are_absent(tower):
    found = encode(tower, [image for image in make_images() if image[0] % 2], KEYS)
    assert (found.present_N == (np.arange(60) % 2 == 1)).all()
    assert (found.vectors_ND[::2] == 0).all()


def test_random_weights_are_said_and_follow_the_seed(tower):
    assert tower.notes == ["the image tower trialign-tiny has random weights (seed 0); no checkpoint was named"]
    images = make_images(4)
    same, other = (
        encode(OpenClipTower(OpenClipConfig("", "trialign-tiny", None, seed, 16)), images).vectors_ND for seed in (0, 1)
    )
    assert (same == encode(tower, images, KEYS).vectors_ND).all()
    assert np.abs(other - same).max() > 0.1


def test_building_a_tower_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    OpenClipTower(OpenClipConfig("", "trialign-tiny", None, 0, 16))
    assert torch.equal(torch.rand(3), expected)


def test_weights_come_from_a_checkpoint(tower, tmp_path):
    torch.save(tower._tower.state_dict(), tmp_path / "weights.pt")
    loaded = OpenClipTower(
        OpenClipConfig("", "trialign-tiny", checkpoint=str(tmp_path / "weights.pt"), seed=5, batch_size=16)
    )
    assert loaded.notes == []
    images = make_images(4)
    assert (encode(loaded, images, KEYS).vectors_ND == encode(tower, images, KEYS).vectors_ND).all()


def test_styles_can_be_read_from_a_random_tower(tower):
    draws = np.random.default_rng(2)
    style_N = draws.integers(9, size=900)
    images = [(item, make_picture(style // 3, style % 3, draws)) for item, style in enumerate(style_N)]
    vectors_ND = encode(tower, images, [str(n) for n in range(900)]).vectors_ND
    vectors_ND = (vectors_ND - vectors_ND.mean(0)) / vectors_ND.std(0)
    probe = LogisticRegression(C=0.3, max_iter=500).fit(vectors_ND[:600], style_N[:600])
    assert probe.score(vectors_ND[600:], style_N[600:]) > 0.9  # chance: .11


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("1", "PNG")]
)
def test_pictures_of_any_mode_are_read(tower, mode, kind):
    picture = encode_picture(np.random.default_rng(0).integers(0, 256, size=(40, 90, 3)), mode, kind)
    assert encode(tower, [(0, picture)], ["a"]).present_N.all()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_picture_that_cannot_be_decoded_is_refused_by_item(tower, damage):
    images = make_images(3)
    whole = images[1][1]
    images[1] = (1, {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>"}[damage])
    with pytest.raises(DataError, match="the picture of item 'k1' cannot be decoded") as raised:
        encode(tower, images, KEYS)
    assert "an item without a picture is legal" in raised.value.remedy


def test_pictures_already_encoded_are_not_decoded_again(tower):
    images = make_images(40)
    images[:16] = [(item, b"not looked at") for item, _ in images[:16]]
    rows = list(tower.rows(images, KEYS, skip=16))
    assert [item for items, _ in rows for item in items] == list(range(16, 40))


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"embed\.image\.model=trialign-tyni") as raised:
        OpenClipTower(OpenClipConfig("", "trialign-tyni", None, 0, 16))
    assert "did you mean 'trialign-tiny'?" in raised.value.remedy


@pytest.mark.parametrize(
    ("model", "checkpoint"),
    [
        ("local-dir:{}", None),
        ("local-dir:{}/nowhere", None),
        ("trialign-tiny", "{}/nowhere.pt"),
        ("trialign-tiny", "{}/other.pt"),
    ],
)
def test_weights_that_cannot_be_loaded_are_refused(tmp_path, model, checkpoint):
    torch.save({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="open_clip cannot load") as raised:
        OpenClipTower(OpenClipConfig("", model.format(tmp_path), checkpoint and checkpoint.format(tmp_path), 0, 16))
    assert "embed.image.checkpoint=FILE" in raised.value.remedy


def test_a_folder_without_weights_is_not_taken_for_a_trained_model(tower, tmp_path):
    save(tower._tower, "trialign-tiny", tmp_path)
    assert (
        encode(OpenClipTower(OpenClipConfig("", f"local-dir:{tmp_path}", None, 0, 16)), make_images(2)).present_N.sum()
        == 2
    )
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="open_clip cannot load"):
        OpenClipTower(OpenClipConfig("", f"local-dir:{tmp_path}", None, 0, 16))
