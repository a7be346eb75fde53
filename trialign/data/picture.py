"""Check a picture: it decodes, has a sane size, and every later reader turns its bytes into the same pixels.

Picture files come from anywhere, and the stages that read them run for hours: every fault that could stop them is found
here. Only five formats are tried, so that no reader of a richer one (some start other programs) ever sees the bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
_PLAIN_MODES = ("RGB", "L", "P", "1")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BrokenPictureError(Exception):
    """A picture cannot be used; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be used.

    Attributes:
        data: encoded, as it came if it was a plain JPEG or PNG, else a PNG made from it.
        extension: `jpg` or `png`.
        converted: whether it was made anew.
        animated: whether it had more than one frame; the first was taken.
    """

    data: bytes
    extension: str
    converted: bool
    animated: bool


def check_picture(data: bytes, max_pixels: int) -> Picture:
    """Decode a picture once; any other than a plain JPEG or PNG becomes a PNG of 8-bit RGB.

    Other color spaces are converted, 16 bits keep the upper eight, transparent pixels are blended with white.

    Args:
        data: the encoded picture.
        max_pixels: width times height, as the header says it, before anything is decoded.

    Raises:
        BrokenPictureError: it is no picture, larger than `max_pixels`, or cannot be decoded to its end.
    """
    try:
        with _no_other_limit():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > max_pixels:
                raise BrokenPictureError(f"{image.width} x {image.height} pixels are more than {max_pixels}")
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            image.load()
            plain = image.mode in _PLAIN_MODES and "transparency" not in image.info
            if plain and not animated and image.format in _KEPT:
                return Picture(data, _KEPT[image.format], converted=False, animated=False)
            file = io.BytesIO()
            _rgb(image).save(file, "PNG")
    except UnidentifiedImageError:
        told = f"it begins with {data[:8]!r} and opens as none of {', '.join(_FORMATS)}" if data else "it is empty"
        raise BrokenPictureError(told) from None
    except (OSError, ValueError, SyntaxError, EOFError) as cause:
        raise BrokenPictureError(str(cause)) from cause
    return Picture(file.getvalue(), "png", converted=True, animated=animated)


@contextmanager
def _no_other_limit() -> Iterator[None]:
    """Switch off Pillow's own limit of pixels, which would fail before the caller's limit."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        # Pillow would clip all values above 255 to white.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")
