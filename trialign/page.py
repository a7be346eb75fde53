"""Pages for the eye: one HTML file that needs no script, no font and no network.

Functions return HTML, and cells of tables are HTML; what comes from a catalogue, a log or a path goes through `escape`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_markup

from PIL import Image

from trialign.foreign import LINES, harmless

__all__ = ["bars", "document", "escape", "forest", "lines", "picture", "table", "thumbnail"]

_SIDE = 72
"""Pixels of a picture's longer side."""

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 22px } h2 { font-size: 17px; margin-top: 2em }
p { max-width: 70em } .dim { color: #777 } code { background: #f2f2f2; padding: 0 .25em }
table { border-collapse: collapse } th { font-weight: 600; border-bottom: 1px solid #bbb }
td, th { padding: .2em .9em .2em 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.row { display: flex; flex-wrap: wrap; gap: 1.6em }
.card { border: 1px solid #ddd; border-radius: 4px; padding: .5em .7em; margin-bottom: 1em }
.pictures { display: flex; flex-wrap: wrap; gap: 4px; margin-bottom: .3em }
img { height: 60px; max-width: 72px; object-fit: contain }
.cut { max-width: 52em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
td img { height: 44px }
svg { display: block; margin: .4em 0 } svg text { font: 12px system-ui, sans-serif; fill: #444 }
"""

_COLOURS = ("#3b6ea5", "#c0504d", "#5b8c3e", "#8064a2", "#d08a1d", "#3a9a9a", "#8c5a3c", "#777777")
_LABEL = 230
"""Pixels left of a chart's axis, for the names of its rows."""

_CHARACTERS = 36
"""Longest name that fits into them."""


def escape(text: str) -> str:
    """Return text from outside as HTML that shows it: no markup, and what would act written out."""
    return escape_markup(harmless(text, keep=LINES))


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page; `title` is plain text and also its heading."""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, num_text: int = 1) -> str:
    """Return a table whose first `num_text` columns are text and whose others are numbers, right-aligned."""
    kinds = [""] * num_text + [" class=n"] * (len(header) - num_text)
    head = "".join(f"<th{kind}>{cell}" for kind, cell in zip(kinds, header, strict=True))
    body = "".join("<tr>" + "".join(f"<td{kind}>{cell}" for kind, cell in zip(kinds, row, strict=True)) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def thumbnail(data: bytes, side: int = _SIDE) -> str:
    """Return an encoded picture, one that decodes, as a JPEG in base64 whose longer side has `side` pixels at most."""
    with Image.open(io.BytesIO(data)) as found:
        found.draft("RGB", (side, side))
        small = found.convert("RGB")
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=75)
    return base64.b64encode(out.getvalue()).decode()


def picture(jpeg: str | None) -> str:
    """Return what `thumbnail` made as an image, nothing for None."""
    return "" if jpeg is None else f"<img alt='' src='data:image/jpeg;base64,{jpeg}'>"


def bars(rows: Sequence[tuple[str, float]], *, mark: tuple[str, float] | None = None, width: int = 360) -> str:
    """Return horizontal bars from 0, the first of them in another colour, with their values.

    Args:
        rows: name and value >= 0 of each bar.
        mark: name and value of a dashed line across all bars.
        width: pixels of the longest bar.
    """
    most = max([value for _, value in rows] + ([mark[1]] if mark else [])) or 1.0
    step, top = 22, 18 if mark else 0
    drawn = []
    for number, (name, value) in enumerate(rows):
        y = top + number * step
        length = width * value / most
        drawn.append(_text(_LABEL - 8, y + 14, _short(name), "end"))
        drawn.append(f"<rect x={_LABEL} y={y + 3} width={length:.1f} height=15 fill='{_COLOURS[min(number, 1)]}'/>")
        drawn.append(_text(_LABEL + length + 5, y + 14, f"{value:.4f}"))
    if mark:
        x = _LABEL + width * mark[1] / most
        drawn.append(_dashed(x, top, top + len(rows) * step))
        drawn.append(_text(x, 12, f"{mark[0]} {mark[1]:.4f}", "middle"))
    return _svg(_LABEL + width + 80, top + len(rows) * step, drawn)


def forest(rows: Sequence[tuple[str, float, float | None, float | None]], *, width: int = 420) -> str:
    """Return a forest plot: each row's difference as a dot on its interval, beside a line at 0.

    Args:
        rows: name, difference, and both ends of its interval, None where there is none.
        width: pixels of the axis.
    """
    known = [value for _, *values in rows for value in values if value is not None]
    ticks = _ticks(min(*known, 0.0), max(*known, 0.0))

    def x_of(value: float) -> float:
        return _LABEL + width * (value - ticks[0]) / (ticks[-1] - ticks[0])

    step, height = 24, 24 * len(rows)
    drawn = [_dashed(x_of(0.0), 0, height)]
    for number, (name, difference, low, high) in enumerate(rows):
        y = number * step + 12
        clear = low is not None and high is not None and (low > 0 or high < 0)
        colour = "#999" if not clear else _COLOURS[0] if difference > 0 else _COLOURS[1]
        drawn.append(_text(_LABEL - 8, y + 4, _short(name), "end"))
        told = f"{difference:+.4f}"
        if low is not None and high is not None:
            drawn.append(f"<path d='M{x_of(low):.1f} {y}H{x_of(high):.1f}' stroke='{colour}' stroke-width=2 />")
            told += f"  [{low:+.4f}, {high:+.4f}]"
        drawn.append(f"<circle cx={x_of(difference):.1f} cy={y} r=4 fill='{colour}'/>")
        drawn.append(_text(_LABEL + width + 12, y + 4, told))
    drawn += [_text(x_of(tick), height + 16, f"{tick:g}", "middle") for tick in ticks]
    return _svg(_LABEL + width + 200, height + 22, drawn)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 520, height: int = 220) -> str:
    """Return curves over one axis, with a legend.

    Args:
        series: name -> (x, y), x rising; values that are no numbers are left out, which breaks no curve.
        width: pixels of the x axis.
        height: pixels of the y axis.
    """
    curves = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    known = [point for points in curves.values() for point in points]
    if not known:
        return "<p class=dim>no value was logged</p>"
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
        drawn.append(f"<path d='M{left} {y}H{left + width}' stroke='#eee'/>")
        drawn.append(_text(left - 6, y + 4, f"{tick:g}", "end"))
    drawn += [_text(float(place(tick, 0).split()[0]), height + 26, f"{tick:g}", "middle") for tick in x_ticks]
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = f" stroke-dasharray='{2 + 3 * (number // len(_COLOURS))} 3'" if number >= len(_COLOURS) else ""
        if points:
            path = "L".join(place(x, y) for x, y in points)
            drawn.append(f"<path d='M{path}' fill=none stroke='{colour}' stroke-width=1.6{dash} />")
        y = 18 + 18 * number
        drawn.append(f"<path d='M{left + width + 14} {y - 4}h20' stroke='{colour}' stroke-width=3{dash} />")
        drawn.append(_text(left + width + 40, y, _short(name)))
    return _svg(left + width + 40 + _LABEL, max(height + 34, 18 * len(curves) + 18), drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that span `low` to `high`."""
    rough = (high - low or abs(high) or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _svg(width: float, height: float, drawn: Iterable[str]) -> str:
    return f"<svg width={width:.0f} height={height:.0f} role=img>{''.join(drawn)}</svg>"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f"<text x={x:.1f} y={y:.1f} text-anchor={anchor} xml:space=preserve>{escape(text)}</text>"


def _dashed(x: float, top: float, bottom: float) -> str:
    return f"<path d='M{x:.1f} {top}V{bottom}' stroke='#888' stroke-dasharray='4 3'/>"


def _short(name: str) -> str:
    """Keep a long name's end, which tells sibling folders apart."""
    return name if len(name) <= _CHARACTERS else "…" + name[1 - _CHARACTERS :]
