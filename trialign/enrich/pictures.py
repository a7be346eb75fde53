"""Check a picture and scale it down before it is sent to a model."""

from __future__ import annotations

import io

from PIL import Image

from trialign.data.picture import check_picture

_MOST_PIXELS = 200_000_000
"""Of any picture: what a stage before may have let through, but memory does not."""


def scaled(data: bytes, max_side: int) -> bytes:
    """Return a picture unchanged, or scaled down and encoded again if its longer side exceeds `max_side` pixels.

    Raises:
        BrokenPictureError: it cannot be decoded, or is too large to decode safely.
    """
    checked = check_picture(data, _MOST_PIXELS).data
    with Image.open(io.BytesIO(checked)) as image:
        if max(image.size) <= max_side:
            return checked
        image.draft("RGB", (max_side, max_side))
        small = image.convert("RGB")
        small.thumbnail((max_side, max_side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=90)
    return out.getvalue()
