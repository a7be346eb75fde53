"""HTML pages and SVG charts: a page is one file that needs no script, no font and no network.

A page is a template in `trialign/templates/`. What is put into it is shown as text, whatever it holds, except the
`Markup` that charts here return.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from trialign.foreign import LINES, harmless

__all__ = ["Markup", "bars", "forest", "lines", "render", "shrink", "thumbnail"]

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)

_SIDE = 72
"""Pixels of a picture's longer side."""

_COLORS = ("#4a86c5", "#d0605d", "#5b9a3e", "#9278b8", "#d08a1d", "#3a9a9a", "#a9714e", "#8a8a8a")
"""To be told from each other, from white and from black."""

_LABEL = 230
"""Pixels right of the curves, for their names."""

_CHARACTERS = 36
"""Longest name that fits into them."""


def render(template: str, title: str, **values: Any) -> str:
    """Return a page from a template, with text escaped: neither markup nor control characters in it take effect.

    Args:
        template: file in `trialign/templates/`.
        title: also the page's heading.
        values: what the template names; text is escaped, `Markup` is not.
    """
    return harmless(_TEMPLATES.get_template(template).render(values, title=title), keep=LINES)


def thumbnail(data: bytes, side: int = _SIDE) -> str:
    """Return an encoded picture, one that decodes, as a JPEG in base64 whose longer side has `side` pixels at most."""
    return base64.b64encode(shrink(data, side)).decode()


def shrink(data: bytes, side: int) -> bytes:
    """Return an encoded picture as a JPEG whose longer side has `side` pixels at most."""
    with Image.open(io.BytesIO(data)) as found:
        found.draft("RGB", (side, side))
        small = found.convert("RGB")
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=75)
    return out.getvalue()


def bars(rows: Sequence[tuple[str, float]], *, own: int = 1, mark: tuple[str, float] | None = None) -> Markup:
    """Return horizontal bars from 0 with their values, as wide as there is room.

    Args:
        rows: name and value >= 0 of each bar.
        own: the first so many are the model's and colored; the others, what it is compared with, are gray.
        mark: name and value of a line across all bars.
    """
    most = max([value for _, value in rows] + ([mark[1]] if mark else [])) or 1.0
    even = Markup('<i class="even" style="left: {:.1f}%"></i>').format(100 * mark[1] / most) if mark else Markup("")
    drawn = [
        _row(
            name,
            Markup('<i class="fill{}" style="width: {:.1f}%"></i>{}').format(
                " own" if number < own else "", 100 * value / most, even
            ),
            f"{value:.4f}",
        )
        for number, (name, value) in enumerate(rows)
    ]
    if mark:
        drawn.append(_row(f"{mark[0]}, the line", Markup(""), f"{mark[1]:.4f}"))
    return Markup('<div class="chart">{}</div>').format(Markup("").join(drawn))


def forest(rows: Sequence[tuple[str, float, float | None, float | None]]) -> Markup:
    """Return a forest plot: each row's difference as a dot on its interval, next to a line at 0.

    Blue is better than 0, red is worse, gray is an interval that holds 0, or none.

    Args:
        rows: name, difference, and both ends of its interval, None where there is none.
    """
    known = [value for _, *values in rows for value in values if value is not None]
    ticks = _ticks(min(*known, 0.0), max(*known, 0.0))

    def place(value: float) -> float:
        return 100 * (value - ticks[0]) / (ticks[-1] - ticks[0])

    even = Markup('<i class="even" style="left: {:.1f}%"></i>').format(place(0.0))
    drawn = []
    for name, difference, low, high in rows:
        kind, told, span = "unclear", f"{difference:+.4f}", Markup("")
        if low is not None and high is not None:
            kind = "better" if low > 0 else "worse" if high < 0 else kind
            span = Markup('<i class="span" style="left: {:.1f}%; width: {:.1f}%"></i>').format(
                place(low), place(high) - place(low)
            )
            told += f" [{low:+.4f}, {high:+.4f}]"
        dot = Markup('<i class="dot" style="left: {:.1f}%"></i>').format(place(difference))
        drawn.append(_row(name, Markup('{}<i class="{}">{}{}</i>').format(even, kind, span, dot), told))
    marks = Markup("").join(
        Markup('<i class="tick" style="left: {:.1f}%">{:g}</i>').format(place(tick), tick) for tick in ticks
    )
    drawn.append(_row("", marks, ""))
    return Markup('<div class="chart forest">{}</div>').format(Markup("").join(drawn))


def _row(name: str, track: Markup, told: str) -> Markup:
    """Return a row of a chart."""
    return Markup('<span title="{}">{}</span><span class="track">{}</span><span class="n">{}</span>').format(
        name, _short(name), track, told
    )


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 520, height: int = 220) -> Markup:
    """Return curves over one axis, with a legend.

    Args:
        series: name -> (x, y), x rising; values that are no numbers are left out, which breaks no curve.
        width: pixels of the x axis.
        height: pixels of the y axis.
    """
    curves = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    known = [point for points in curves.values() for point in points]
    if not known:
        return Markup('<p class="dim">no value was logged</p>')
    y_ticks = _ticks(min(y for _, y in known), max(y for _, y in known))
    x_ticks = _ticks(0.0, max(x for x, _ in known))
    left = 60

    def place(x: float, y: float) -> str:
        across = left + width * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        down = 8 + height * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))
        return f"{across:.1f} {down:.1f}"

    drawn = []
    for tick in y_ticks:
        y = float(place(0, tick).split()[1])
        drawn.append(_shape("path", class_="grid", d=f"M{left} {y}H{left + width}"))
        drawn.append(_text(left - 6, y + 4, f"{tick:g}", "end"))
    drawn += [_text(float(place(tick, 0).split()[0]), height + 26, f"{tick:g}", "middle") for tick in x_ticks]
    for number, (name, points) in enumerate(curves.items()):
        color = _COLORS[number % len(_COLORS)]
        dash = {"stroke_dasharray": f"{2 + 3 * (number // len(_COLORS))} 3"} if number >= len(_COLORS) else {}
        if points:
            path = "L".join(place(x, y) for x, y in points)
            drawn.append(_shape("path", d=f"M{path}", fill="none", stroke=color, stroke_width=1.6, **dash))
        y = 18 + 18 * number
        drawn.append(_shape("path", d=f"M{left + width + 14} {y - 4}h20", stroke=color, stroke_width=3, **dash))
        drawn.append(_text(left + width + 40, y, _short(name)))
    return _svg(left + width + 40 + _LABEL, max(height + 34, 18 * len(curves) + 18), drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that span `low` to `high`."""
    rough = (high - low or abs(high) or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _svg(width: float, height: float, drawn: Iterable[Markup]) -> Markup:
    """Return a chart of this size, which a narrow page scrolls."""
    frame = Markup('<div class="scroll"><svg width="{:.0f}" height="{:.0f}" role="img">{}</svg></div>')
    return frame.format(width, height, Markup("").join(drawn))


def _shape(name: str, text: str | None = None, **attributes: object) -> Markup:
    """Return an element of a chart; of an attribute's name `_` is written `-`."""
    told = Markup("").join(
        Markup(' {}="{}"').format(key.strip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}/>" if text is None else "<{0}{1}>{2}</{0}>").format(name, told, text)


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return _shape("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, style="white-space: pre")


def _short(name: str) -> str:
    """Shorten a long name to its end, which differs between sibling folders."""
    return name if len(name) <= _CHARACTERS else "…" + name[1 - _CHARACTERS :]
