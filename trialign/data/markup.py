"""Strip HTML from the texts of a catalogue: shops export it, and it says nothing about an item."""

from __future__ import annotations

import re
from html import unescape
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

_Words: TypeAlias = "str | list[_Words] | None"
_TEXTS = ("title", "description", "brand", "caption")
_WORDS = "a|abbr|b|big|cite|code|em|font|i|ins|mark|s|small|span|strike|strong|sub|sup|tt|u"
_BLOCKS = (
    "article|blockquote|body|br|center|dd|div|dl|dt|figcaption|figure|h[1-6]|head|hr|html|iframe|img|li|link|meta|ol|p|"
    "pre|section|table|tbody|td|tfoot|th|thead|title|tr|ul|video"
)
_UNSEEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG_IN_WORDS, _TAG_OF_BLOCK = (
    re.compile(rf"</?(?:{names})(?:\s[^<>]*)?/?>", re.IGNORECASE) for names in (_WORDS, _BLOCKS)
)
_ENTITY = re.compile(r"&(?:[a-z][a-z0-9]+|#[0-9]+|#x[0-9a-f]+);", re.IGNORECASE)


def holds_html(text: str) -> bool:
    """Return whether `text` holds an HTML tag, comment or entity; `1 <b` and `AT&T` hold none."""
    return any(pattern.search(text) for pattern in (_ENTITY, _TAG_OF_BLOCK, _TAG_IN_WORDS, _UNSEEN))


def read_html(text: str) -> str:
    """Return what a browser would show of `text`, in one line: no tags, no scripts, entities read once."""
    text = _TAG_IN_WORDS.sub("", _TAG_OF_BLOCK.sub(" ", _UNSEEN.sub("", text)))
    return " ".join(_ENTITY.sub(lambda found: unescape(found[0]), text).split())


def html_read(items: pa.Table) -> tuple[pa.Table, list[str]]:
    """Replace the HTML in a catalogue by its text.

    Args:
        items: as `RawData.items`.

    Returns:
        The catalogue, texts and categories with HTML as `read_html` returns them, all else as it was; and the keys of
        the items that had any.
    """
    rows: set[int] = set()

    def read(row: int, value: _Words) -> _Words:
        if isinstance(value, list):
            return [read(row, part) for part in value]
        if value is None or not holds_html(value):
            return value
        rows.add(row)
        return read_html(value)

    for name in (*_TEXTS, "categories"):
        if name in items.column_names and _may_hold_html(items[name]):
            column = items[name]
            shown = [read(row, value) for row, value in enumerate(column.to_pylist())]
            items = items.set_column(items.column_names.index(name), name, pa.array(shown, column.type))
    keys = items["item"].to_pylist()
    return items, [keys[row] for row in sorted(rows)]


def _may_hold_html(column: pa.ChunkedArray) -> bool:
    """Return whether a column holds a character that all HTML needs: a cheap test, which most columns fail."""
    texts = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    return any(pc.any(pc.match_substring(texts, character)).as_py() for character in "<&")
