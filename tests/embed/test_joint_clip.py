"""Joint vectors by a CLIP: what they are made of, item by item."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from trialign.config.embed import OpenClipConfig, OpenClipJointConfig
from trialign.embed.image import OpenClipTower
from trialign.embed.joint_clip import OpenClipJoint
from trialign.enrich.clip.model import build, save, tokenizer_of
from trialign.errors import ConfigError, DataError

KEYS = [f"k{item}" for item in range(6)]
TEXTS = ["red stripes", "", "a longer text of navy dots", "plain", "", "word " * 60]


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGES = [(item, picture(item)) for item in (0, 1, 5)]
"""Item 0 and 5 have both, 1 a picture alone, 2 and 3 a text alone, 4 neither."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A CLIP with weights of its own: random ones, which is all that geometry needs."""
    folder = tmp_path_factory.mktemp("clip")
    save(build("trialign-tiny", None, 0, "embed.joint")[0], "trialign-tiny", folder)
    return f"local-dir:{folder}"


def encode(encoder, images=IMAGES, texts=TEXTS, skip=0):
    rows = list(encoder.rows(iter(images), texts, KEYS, skip=skip))
    return {item: vector for items, vectors in rows for item, vector in zip(items, vectors, strict=True)}


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_a_joint_vector_is_the_normalised_sum_of_what_an_item_has(model):
    encoder = OpenClipJoint(OpenClipJointConfig("", model, None, batch_size=4))
    found = encode(encoder)
    tower = OpenClipTower(OpenClipConfig("", model, None, 0, 4))
    ((items, vectors),) = tower.rows(IMAGES, KEYS, skip=0)
    shown = {item: unit(vector) for item, vector in zip(items, vectors, strict=True)}
    with torch.inference_mode():
        clip = build(model, None, 0, "embed.joint")[0].eval()
        told = {item: unit(clip.encode_text(tokenizer_of(model)([TEXTS[item]])).numpy()[0]) for item in (0, 2, 3, 5)}
    assert set(found) == {0, 1, 2, 3, 5}
    for item in (0, 5):
        np.testing.assert_allclose(found[item], unit(shown[item] + told[item]), atol=1e-5)
    np.testing.assert_allclose(found[1], shown[1], atol=1e-5)
    for item in (2, 3):
        np.testing.assert_allclose(found[item], told[item], atol=1e-5)
    assert encoder.notes == ["1 texts fill the 32 tokens that are read, the rest of them is not"]


@pytest.mark.parametrize("skip", [0, 1, 3, 4])
def test_neither_batches_nor_what_was_done_before_change_a_vector(model, skip):
    whole = encode(OpenClipJoint(OpenClipJointConfig("", model, None, batch_size=4)))
    rest = encode(OpenClipJoint(OpenClipJointConfig("", model, None, batch_size=2)), skip=skip)
    assert list(rest) == list(whole)[skip:]
    for item, vector in rest.items():
        np.testing.assert_allclose(vector, whole[item], atol=1e-5)


def test_towers_with_no_space_in_common_are_refused():
    with pytest.raises(ConfigError, match=r"embed\.joint\.model=trialign-tiny"):
        OpenClipJoint(OpenClipJointConfig("", "trialign-tiny", None, 4))


def test_a_picture_that_cannot_be_read_is_named(model):
    with pytest.raises(DataError, match="'k1'"):
        encode(OpenClipJoint(OpenClipJointConfig("", model, None, 4)), images=[(1, b"no picture")])
