"""Text from outside: whatever it holds, a terminal and a page show it and obey nothing."""

from __future__ import annotations

import io
import re
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table

from trialign.foreign import LINES, harmless
from trialign.html import render
from trialign.terminal import console

ACTS = "\x1b]0;title\x07 \u202egnp.exe \x9b31m \u2066x\u2069 \x00 \r"
MARKS = "\u061c\u200e\u200f\u2067\u2068\ufeff\ufff9\ufffa\ufffb"
"""They change the order or the sense of what is next to them, and nobody sees them."""


@example(MARKS)
@given(st.text(st.characters()))
def test_what_is_harmless_holds_no_control_and_no_direction(text: str) -> None:
    shown = harmless(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    embeds = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not [c for c in shown if unicodedata.bidirectional(c) in embeds]
    assert not set(shown) & set(MARKS)
    shown.encode()  # a half of a character cannot be


def test_controls_are_written_out_and_words_of_any_language_stay() -> None:
    assert harmless("\x1b[31m\u202e\ud800") == "\\x1b[31m\\u202e\\ud800"
    words = "Füllfederhalter 万年筆 قلم حبر 👩\u200d🔧 a&b <p> [red]"
    assert harmless(words) == words
    assert harmless("a\nb\tc") == "a\\nb\\tc"
    assert harmless("a\nb\tc", keep=LINES) == "a\nb\tc"


def test_a_terminal_shows_brackets_colons_and_controls_in_every_place() -> None:
    file = io.StringIO()
    table = Table(title="recommended to [/red]" + ACTS)
    table.add_column("[bold]title")
    for text in ("lamp [/w adapter]", "[pack of 2] :smile:", ACTS, "[link=http://x]y"):
        table.add_row(text)
    out = console(width=100, file=file)
    out.print(table)
    out.print("[/] :smile: " + ACTS)
    shown = file.getvalue()
    for text in ("lamp [/w adapter]", "[pack of 2] :smile:", "[link=http://x]y", "[bold]title", "[/] :smile:"):
        assert text in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_a_page_shows_markup_entities_and_controls() -> None:
    page = render("base.html", "<p>&amp;\u202e\x1b\n'\"")
    assert "<h1>&lt;p&gt;&amp;amp;\\u202e\\x1b\n&#39;&#34;</h1>" in page
