from __future__ import annotations

import io
import logging
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from trialign.data.sources import Tables
from trialign.data.sources.pictures import read_pictures
from trialign.errors import DataError

Make = Callable[..., Tables]
OWNERS = {"1": ["1"], "2": ["2"], "3": ["3"]}
Member = tuple[str, bytes, dict[str, Any]]


def _tar(path: Path, *members: Member) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data, header in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in header.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def _plain(name: str, data: bytes = b"picture") -> Member:
    return name, data, {}


def test_pictures_of_a_folder_at_any_depth_belong_to_their_stem(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("1.jpg", "deep/2.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    assert list(read_pictures([tmp_path], OWNERS)) == [("1", b"1.jpg"), ("2", b"deep/2.PNG")]


def test_pictures_of_tars_and_of_webdataset_shards(tmp_path: Path) -> None:
    plain = _tar(tmp_path / "a.tar", _plain("posters/1.jpg", b"one"))
    with webdataset.TarWriter(str(tmp_path / "b-000000.tar")) as writer:
        writer.write({"__key__": "2", "jpg": b"two", "json": {"label": 7}, "pyd": pickle.dumps([1])})
    assert list(read_pictures([plain, tmp_path / "b-000000.tar"], OWNERS)) == [("1", b"one"), ("2", b"two")]


def test_a_pickle_in_a_shard_is_counted_and_never_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Unpickling this would call a name that does not exist.
    bomb = b"cnowhere\nnothing\n(tR."
    tar = _tar(
        tmp_path / "a.tar", _plain("1.jpg"), _plain("1.pkl", bomb), _plain("1.pyd", bomb), _plain("2.pickle", bomb)
    )
    with caplog.at_level(logging.WARNING):
        assert [key for key, _ in read_pictures([tar], OWNERS)] == ["1"]
    assert "3 members of tars are no pictures and were not opened, e.g. 1.pkl, 1.pyd, 2.pickle" in caplog.text


def test_a_member_that_climbs_out_is_read_in_place(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    tar = _tar(inside / "a.tar", _plain("../../1.jpg", b"one"), _plain("/etc/2.jpg", b"two"))
    before = sorted(tmp_path.rglob("*"))
    assert list(read_pictures([tar], OWNERS)) == [("1", b"one"), ("2", b"two")]
    assert sorted(tmp_path.rglob("*")) == before


def test_links_devices_and_sparse_members_are_left_alone_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    tar = _tar(
        tmp_path / "a.tar",
        ("1.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": str(tmp_path / "secret")}),
        ("2.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "3.jpg"}),
        ("zero.jpg", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
        ("posters", b"", {"type": tarfile.DIRTYPE}),
        _plain("3.jpg", b"three"),
    )
    with caplog.at_level(logging.WARNING):
        assert list(read_pictures([tar], OWNERS)) == [("3", b"three")]
    assert (
        "3 members of tars are links, devices or sparse and were left alone, e.g. 1.jpg, 2.jpg, zero.jpg" in caplog.text
    )


def test_pictures_of_no_item_and_items_without_their_picture_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar = _tar(tmp_path / "a.tar", _plain("1.jpg"), _plain("77.jpg"), _plain("78.png"))
    with caplog.at_level(logging.WARNING):
        assert [key for key, _ in read_pictures([tar], OWNERS)] == ["1"]
    assert "2 pictures belong to no item, e.g. 77.jpg, 78.png" in caplog.text
    assert "2 names of pictures were found nowhere, e.g. 2, 3" in caplog.text


@pytest.mark.parametrize("kept", [100, 700, 1100, 1536, 1700, 2600])
def test_a_tar_that_breaks_off_is_refused_wherever_it_does(tmp_path: Path, kept: int) -> None:
    path = _tar(tmp_path / "a.tar", _plain("1.jpg", b"x" * 600), _plain("2.jpg", b"y" * 600))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"a\.tar is damaged"):
        list(read_pictures([path], OWNERS))


def test_a_picture_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.jpg")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf())
    with pytest.raises(DataError, match=r"1\.jpg in .*a\.tar holds 1099511627776 bytes"):
        list(read_pictures([tmp_path / "a.tar"], OWNERS))


def test_places_that_are_neither_folder_nor_tar_are_refused(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time\nu,a,1\n")
    (tmp_path / "p.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.images names .*p\.zip\n.*folders and from uncompressed \.tar"):
        tables(images="p.zip").sources()


def test_a_column_names_the_picture_of_an_item_and_may_share_it(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time\nu,a,1\n")
    (tmp_path / "items.csv").write_text("item,photo\na,x/red.jpg\nb,red.png\nc,\nred,blue\n")
    (tmp_path / "photos").mkdir()
    for name in ("red.jpg", "blue.jpg", "c.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    source = tables(images="photos", item_columns={"image": "photo"})
    images = source.load(tmp_path).images
    assert images is not None
    assert list(images()) == [("red", b"blue.jpg"), ("a", b"red.jpg"), ("b", b"red.jpg")]
    assert [role for role in source.sources() if role.startswith("images")] == [
        "images/photos/blue.jpg",
        "images/photos/c.jpg",
        "images/photos/red.jpg",
    ]
    named_by_key = tables(images="photos").load(tmp_path).images
    assert named_by_key is not None
    assert list(named_by_key()) == [("c", b"c.jpg"), ("red", b"red.jpg")]


def test_pictures_of_which_none_has_an_owner_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no picture in data\.images"):
        list(read_pictures([tmp_path], OWNERS))
    (tmp_path / "x.jpg").write_bytes(b"picture")
    with pytest.raises(DataError, match=r"none of 1 pictures belongs to an item, e\.g\. x\.jpg; looked for 1, 2, 3"):
        list(read_pictures([tmp_path], OWNERS))
