"""Pictures as they are sent to a model: whole, and no larger than it can use."""

from __future__ import annotations

import io

from PIL import Image

from trialign.data.picture import check_picture

_MOST_PIXELS = 200_000_000
"""Of any picture: what a stage before may have let through, but memory does not."""


def scaled(data: bytes, max_side: int) -> bytes:
    """Return a picture as it is, or scaled down and encoded anew where its longer side exceeds `max_side` pixels.

    Raises:
        BrokenPictureError: it cannot be decoded, or is larger than memory should be asked for.
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
