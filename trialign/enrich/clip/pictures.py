"""Decode pictures."""

from __future__ import annotations

import io

from PIL import Image

from trialign.errors import DataError


def decode(picture: bytes, key: str) -> Image.Image:
    """Return a picture as RGB.

    Raises:
        DataError: it cannot be decoded; the error names the item.
    """
    try:
        return Image.open(io.BytesIO(picture)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(
            f"the picture of item {key!r} cannot be decoded ({len(picture)} bytes): {cause}",
            rule="pictures are whole files of a format Pillow reads",
            remedy="replace or remove that file; an item without a picture is legal",
        ) from cause
