from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trialign.data.picture import BrokenPictureError, check_picture

LIMIT = 1_000_000


def _encoded(image: Image.Image, form: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def _noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def _pixels(data: bytes) -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("form", "mode", "extension"),
    [("JPEG", "RGB", "jpg"), ("JPEG", "L", "jpg"), ("PNG", "RGB", "png"), ("PNG", "L", "png"), ("PNG", "P", "png")],
)
def test_plain_pictures_keep_their_bytes(form: str, mode: str, extension: str) -> None:
    data = _encoded(_noise(mode), form)
    picture = check_picture(data, LIMIT)
    assert (picture.data, picture.extension) == (data, extension)
    assert not picture.converted
    assert not picture.animated


def test_cmyk_becomes_rgb() -> None:
    data = _encoded(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG")
    picture = check_picture(data, LIMIT)
    assert (picture.extension, picture.converted) == ("png", True)
    assert _pixels(picture.data).reshape(-1, 3).mean(0) == pytest.approx([255, 0, 0], abs=4)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animated_picture_the_first_frame_is_taken(form: str) -> None:
    red, blue = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (20, 10), "blue")
    settings: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    picture = check_picture(_encoded(red, form, save_all=True, append_images=[blue], **settings), LIMIT)
    assert picture.animated
    assert picture.converted
    assert (_pixels(picture.data) == (255, 0, 0)).all()


def test_sixteen_bits_keep_the_upper_eight() -> None:
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    picture = check_picture(_encoded(Image.fromarray(ramp), "PNG"), LIMIT)
    assert picture.converted
    assert np.array_equal(_pixels(picture.data)[:, :, 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 10))
    data = _encoded(image.convert(mode) if mode == "LA" else image, "GIF" if mode == "P" else "PNG")
    pixels = _pixels(check_picture(data, LIMIT).data)
    assert (pixels[:, :10] == 0).all()
    assert (pixels[:, 10:] == 255).all()


def test_a_transparent_palette_png_is_converted() -> None:
    image = Image.new("P", (20, 10), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    picture = check_picture(_encoded(image, "PNG", transparency=0), LIMIT)
    assert (_pixels(picture.data) == 255).all()


def _png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1001, 1000), (30_000, 30_000), (60_000, 60_000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    # Decoding would fail for another reason: the content is too short. So the message tells which came first.
    with pytest.raises(BrokenPictureError, match=r"are more than 1000000"):
        check_picture(_png_claiming(*size), LIMIT)


@pytest.mark.parametrize(
    ("form", "settings"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})]
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_picture_that_breaks_off_is_found(form: str, settings: dict[str, Any], share: float) -> None:
    data = _encoded(_noise(size=(200, 150)), form, **settings)
    with pytest.raises(BrokenPictureError):
        check_picture(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize("data", [b"<html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"II*\0" + bytes(100), b"\xff\xd8\xff rest"])
def test_what_is_no_picture_is_said(data: bytes) -> None:
    with pytest.raises(BrokenPictureError, match="it begins with"):
        check_picture(data, LIMIT)


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(BrokenPictureError, match="it is empty"):
        check_picture(b"", LIMIT)
