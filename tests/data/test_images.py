from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image

from trialign.config.data import DataConfig
from trialign.data.images import PictureIndex, read_images, write_images
from trialign.errors import DataError

ITEM_OF = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}


def _encoded(form: str, color: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(file, form, **settings)
    return file.getvalue()


JPEG, PNG, OTHER = _encoded("JPEG", "red"), _encoded("PNG", "blue"), _encoded("JPEG", "green")
Write = Callable[..., tuple[NDArray[np.bool_], dict[str, int]]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(pictures: list[tuple[str, bytes]], **changes: Any) -> tuple[NDArray[np.bool_], dict[str, int]]:
        settings = DataConfig(**{"images_per_shard": 2, "max_pixels": 100} | changes)
        return write_images(iter(pictures), ITEM_OF, tmp_path / "images", settings)

    return make


def test_pictures_are_read_back_byte_for_byte_across_shards(write: Write, tmp_path: Path) -> None:
    has_image, counts = write([("d", JPEG), ("a", PNG), ("c", OTHER)])
    assert has_image.tolist() == [True, False, True, True, False]
    assert counts == {"images": 3}
    assert list(read_images(tmp_path / "images")) == [(3, JPEG), (0, PNG), (2, OTHER)]
    names = [path.name for path in (tmp_path / "images").iterdir()]
    assert sorted(names) == ["images-000000.tar", "images-000001.tar"]


def test_webdataset_finds_both_members_of_a_sample(write: Write, tmp_path: Path) -> None:
    write([("d", JPEG), ("a", PNG)])
    samples = list(webdataset.WebDataset(str(tmp_path / "images" / "images-000000.tar"), shardshuffle=False))
    assert [json.loads(sample["json"]) for sample in samples] == [{"item": 3, "key": "d"}, {"item": 0, "key": "a"}]
    assert (samples[0]["jpg"], samples[1]["png"]) == (JPEG, PNG)


def test_a_catalogue_without_pictures_has_no_shard(write: Write, tmp_path: Path) -> None:
    assert not write([])[0].any()
    assert list(read_images(tmp_path / "images")) == []
    assert list((tmp_path / "images").iterdir()) == []


def test_what_had_to_be_made_anew_is_counted(write: Write, tmp_path: Path) -> None:
    blue = Image.new("RGB", (8, 6), "blue")
    animated = _encoded("GIF", "red", save_all=True, append_images=[blue])
    _, counts = write([("a", JPEG), ("b", animated), ("c", _encoded("BMP", "green"))])
    assert counts == {"images": 3, "images_converted": 2, "images_animated": 1}
    found = dict(read_images(tmp_path / "images"))
    assert Image.open(io.BytesIO(found[1])).getpixel((0, 0)) == (255, 0, 0)


def test_broken_pictures_are_all_told_at_once(write: Write) -> None:
    broken = [("b", JPEG[:200]), ("c", b"<html>"), ("d", _encoded("PNG", "red")[:-30]), ("e", b"")]
    with pytest.raises(
        DataError, match=r"4 pictures cannot be used: item 'b': .*; item 'c': it begins with .*; \.\.\."
    ) as e:
        write([("a", JPEG), *broken])
    assert "data.broken_images=drop" in e.value.remedy


def test_broken_pictures_can_be_dropped(write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        has_image, counts = write([("a", JPEG[:200]), ("b", PNG)], broken_images="drop")
    assert has_image.tolist() == [False, True, False, False, False]
    assert counts == {"images": 1, "images_broken": 1}
    assert "1 pictures cannot be used: item 'a'" in caplog.text
    assert list(read_images(tmp_path / "images")) == [(1, PNG)]


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([("z", JPEG)], "'z', which is not in the catalogue"),
        ([("a", JPEG), ("b", PNG), ("a", PNG)], "item 'a' has two pictures"),
    ],
)
def test_pictures_that_belong_to_no_single_item_are_refused(
    write: Write, pictures: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(pictures)


def test_the_limit_of_pixels_is_the_one_given(write: Write) -> None:
    with pytest.raises(DataError, match="item 'a': 8 x 6 pixels are more than 47"):
        write([("a", PNG)], max_pixels=47)
    assert write([("a", PNG)], max_pixels=48)[1] == {"images": 1}


def test_a_picture_is_found_without_reading_the_others(write: Write, tmp_path: Path) -> None:
    write([("a", JPEG), ("c", PNG), ("e", OTHER)])  # two shards
    pictures = PictureIndex(tmp_path / "images")
    assert [pictures.read(item) for item in range(5)] == [JPEG, None, PNG, None, OTHER]
    assert PictureIndex(tmp_path / "nowhere").read(0) is None
