"""HTML in a catalogue: read as a browser would where asked for, otherwise said and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from trialign.data.dataset import Dataset
from trialign.data.markup import holds_html, read_html

Prepared = Callable[..., tuple[Dataset, dict[str, int]]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Salt &amp; Pepper &#39;Mill&#x27;", "Salt & Pepper 'Mill'"),
        ("<p>First</p><p>second<br/>third</p>", "First second third"),
        ("a <b>bo</b>ld <A HREF='x>y'>word</A>", "a bold y'>word"),
        ("<script>alert(1)</script>Lamp<!-- old -->", "Lamp"),
        ("&lt;p&gt; stays a tag", "<p> stays a tag"),
        ("100&nbsp;ml", "100 ml"),
        ("&amp;amp;", "&amp;"),
    ],
)
def test_html_is_read_once_as_a_browser_shows_it(text: str, shown: str) -> None:
    assert holds_html(text)
    assert read_html(text) == shown


@pytest.mark.parametrize("text", ["AT&T", "a < b and c > d", "I <3 you", "R&D; and more", "<|sid_0|>", "x <y>", ""])
def test_what_is_no_html_is_left_alone(text: str) -> None:
    assert not holds_html(text)


def test_prepare_reads_html_where_asked_counts_it_and_otherwise_says_what_it_kept(
    prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    items: dict[str, Any] = {
        "1": {"title": "Salt &amp; Pepper", "description": "<p>Two</p>", "categories": ["Home &amp; Kitchen"]},
        "2": {"title": "AT&T", "description": "", "categories": []},
        "3": {"title": "lamp"},
    }
    with caplog.at_level(logging.WARNING):
        kept, counts = prepared({"a": [1, 2, 3]}, items)
    assert "1 of 3 items have HTML in their texts, e.g. 1" in caplog.text
    assert "items_with_html" not in counts
    assert kept.items["title"].to_pylist() == ["Salt &amp; Pepper", "AT&T", "lamp"]
    shown, counts = prepared({"a": [1, 2, 3]}, items, read_html=True)
    assert counts["items_with_html"] == 1
    assert shown.items["title"].to_pylist() == ["Salt & Pepper", "AT&T", "lamp"]
    assert shown.items["description"].to_pylist()[0] == "Two"
    assert shown.items["categories"].to_pylist()[0] == ["Home & Kitchen"]
