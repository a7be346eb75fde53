from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset

from trialign.data.images import read_images, write_images
from trialign.errors import DataError

JPEG, PNG = b"\xff\xd8\xff rest", b"\x89PNG\r\n\x1a\n rest"
ITEM_OF = {"a": 0, "b": 1, "c": 2, "d": 3}


def test_pictures_are_read_back_byte_for_byte_across_shards(tmp_path: Path) -> None:
    pictures = [("d", JPEG), ("a", PNG), ("c", JPEG + b"2")]
    has_image = write_images(iter(pictures), ITEM_OF, tmp_path, images_per_shard=2)
    assert has_image.tolist() == [True, False, True, True]
    assert list(read_images(tmp_path)) == [(3, JPEG), (0, PNG), (2, JPEG + b"2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-000000.tar", "images-000001.tar"]


def test_webdataset_finds_both_members_of_a_sample(tmp_path: Path) -> None:
    write_images(iter([("d", JPEG), ("a", PNG)]), ITEM_OF, tmp_path, images_per_shard=2)
    samples = list(webdataset.WebDataset(str(tmp_path / "images-000000.tar"), shardshuffle=False))
    assert [json.loads(sample["json"]) for sample in samples] == [{"item": 3, "key": "d"}, {"item": 0, "key": "a"}]
    assert (samples[0]["jpg"], samples[1]["png"]) == (JPEG, PNG)


def test_a_catalogue_without_pictures_has_no_shard(tmp_path: Path) -> None:
    assert not write_images(iter(()), ITEM_OF, tmp_path / "images", images_per_shard=2).any()
    assert list(read_images(tmp_path / "images")) == []
    assert np.array_equal(list((tmp_path / "images").iterdir()), [])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([("z", JPEG)], "'z', which is not in the catalogue"),
        ([("a", JPEG), ("b", PNG), ("a", PNG)], "item 'a' has two pictures"),
        ([("a", b"GIF89a...")], "picture of item 'a' begins with b'GIF89a"),
        ([("a", b"")], "picture of item 'a' begins with b''"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(
    tmp_path: Path, pictures: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_images(iter(pictures), ITEM_OF, tmp_path, images_per_shard=2)
