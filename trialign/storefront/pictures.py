"""What the storefront's pictures show: an item's style, and nothing else about it.

A style is a pair of colors and a motif. Everything else in a picture is nuisance, drawn anew for each: angle, scale,
offset, thickness, exposure, a tint, and grain.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trialign.storefront.world import Style

SIDE = 64  # pixels
_CANVAS = 96  # covers the picture at any angle: 96 > 64 * sqrt(2)

_Colour = tuple[int, int, int]


def paint(style: Style, draws: np.random.Generator) -> bytes:
    """Return a JPEG of 64 x 64 pixels that shows `style`."""
    tint, exposure = draws.normal(0.0, 8.0, 3), draws.uniform(0.85, 1.1)
    ground, ink = (_tinted(color, tint, exposure) for color in (style.ground, style.ink))
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), ground)
    step = draws.uniform(13.0, 20.0)
    size = step * draws.uniform(0.5, 0.65)
    start_x, start_y = draws.uniform(-step, 0.0, 2)
    pen = ImageDraw.Draw(canvas)
    for y in np.arange(start_y, _CANVAS + step, step):
        for x in np.arange(start_x, _CANVAS + step, step):
            _stamp(pen, style.motif, x, y, step, size, ink)
    canvas = canvas.rotate(draws.uniform(0.0, 360.0), Image.Resampling.BILINEAR, fillcolor=ground)
    margin = (_CANVAS - SIDE) // 2
    pixels = np.asarray(canvas.crop((margin, margin, margin + SIDE, margin + SIDE)), dtype=np.float64)
    pixels = pixels + draws.normal(0.0, 6.0, pixels.shape)
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def _tinted(color: list[int], tint: NDArray[np.float64], exposure: float) -> _Colour:
    red, green, blue = (np.asarray(color) * exposure + tint).clip(0, 255).astype(int)
    return int(red), int(green), int(blue)


def _stamp(pen: ImageDraw.ImageDraw, motif: str, x: float, y: float, step: float, size: float, ink: _Colour) -> None:
    """Draw one motif into the cell of `step` pixels whose corner is (x, y); most are `size` pixels wide."""
    half, third = size / 2, size / 3
    match motif:
        case "stripes":
            pen.rectangle((x, y, x + step, y + size), fill=ink)
        case "dots":
            pen.ellipse((x, y, x + size, y + size), fill=ink)
        case "diamonds":
            pen.polygon([(x + half, y), (x + size, y + half), (x + half, y + size), (x, y + half)], fill=ink)
        case "rings":
            pen.ellipse((x, y, x + size, y + size), outline=ink, width=3)
        case "crosses":
            pen.rectangle((x + third, y, x + 2 * third, y + size), fill=ink)
            pen.rectangle((x, y + third, x + size, y + 2 * third), fill=ink)
        case "checks":
            pen.rectangle((x, y, x + step / 2, y + step / 2), fill=ink)
            pen.rectangle((x + step / 2, y + step / 2, x + step, y + step), fill=ink)
        case "triangles":
            pen.polygon([(x, y + size), (x + size, y + size), (x + half, y)], fill=ink)
        case "waves":
            wave = [(x + step * t, y + third * math.sin(2 * math.pi * t)) for t in np.linspace(0.0, 1.0, 9)]
            pen.line(wave, fill=ink, width=3)
        case _:
            raise AssertionError(f"world.yaml names an unknown motif: {motif}")
