"""What the storefront's pictures show: an item's style, and nothing else about it.

A style is a pair of colours and a motif. Everything else in a picture is nuisance, drawn anew for each: angle, scale,
offset, thickness, exposure, a tint, and grain.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from trialign.data.storefront.world import Style

SIDE = 64  # pixels
_CANVAS = 96  # covers the picture at any angle: 96 > 64 * sqrt(2)

_Brush = Callable[[ImageDraw.ImageDraw, float, float, float, float, tuple[int, int, int]], None]


def paint(style: Style, draws: np.random.Generator) -> bytes:
    """Return a JPEG of 64 x 64 pixels that shows `style`."""
    tint, exposure = draws.normal(0.0, 8.0, 3), draws.uniform(0.85, 1.1)
    ground, ink = (_tinted(colour, tint, exposure) for colour in (style.ground, style.ink))
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), ground)
    step = draws.uniform(13.0, 20.0)
    size = step * draws.uniform(0.5, 0.65)
    start_x, start_y = draws.uniform(-step, 0.0, 2)
    brush, pen = _MOTIFS[style.motif], ImageDraw.Draw(canvas)
    for y in np.arange(start_y, _CANVAS + step, step):
        for x in np.arange(start_x, _CANVAS + step, step):
            brush(pen, x, y, step, size, ink)
    canvas = canvas.rotate(draws.uniform(0.0, 360.0), Image.Resampling.BILINEAR, fillcolor=ground)
    margin = (_CANVAS - SIDE) // 2
    pixels = np.asarray(canvas.crop((margin, margin, margin + SIDE, margin + SIDE)), dtype=np.float64)
    pixels = pixels + draws.normal(0.0, 6.0, pixels.shape)
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def _tinted(colour: tuple[int, int, int], tint: np.ndarray, exposure: float) -> tuple[int, int, int]:
    red, green, blue = (np.asarray(colour) * exposure + tint).clip(0, 255).astype(int)
    return int(red), int(green), int(blue)


def _stripes(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    pen.rectangle((x, y, x + step, y + size), fill=ink)


def _dots(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    pen.ellipse((x, y, x + size, y + size), fill=ink)


def _diamonds(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    half = size / 2
    pen.polygon([(x + half, y), (x + size, y + half), (x + half, y + size), (x, y + half)], fill=ink)


def _rings(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    pen.ellipse((x, y, x + size, y + size), outline=ink, width=3)


def _crosses(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    low, high = size / 3, 2 * size / 3
    pen.rectangle((x + low, y, x + high, y + size), fill=ink)
    pen.rectangle((x, y + low, x + size, y + high), fill=ink)


def _checks(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    half = step / 2
    pen.rectangle((x, y, x + half, y + half), fill=ink)
    pen.rectangle((x + half, y + half, x + step, y + step), fill=ink)


def _triangles(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    pen.polygon([(x, y + size), (x + size, y + size), (x + size / 2, y)], fill=ink)


def _waves(pen: ImageDraw.ImageDraw, x: float, y: float, step: float, size: float, ink: tuple[int, int, int]) -> None:
    places = np.linspace(0.0, 1.0, 9)
    pen.line([(x + step * t, y + size / 3 * math.sin(2 * math.pi * t)) for t in places], fill=ink, width=3)


_MOTIFS: dict[str, _Brush] = {
    "stripes": _stripes,
    "dots": _dots,
    "diamonds": _diamonds,
    "rings": _rings,
    "crosses": _crosses,
    "checks": _checks,
    "triangles": _triangles,
    "waves": _waves,
}
