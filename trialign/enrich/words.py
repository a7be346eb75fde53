"""Tests for markup and foreign scripts, shared by captions and interests."""

from __future__ import annotations

import re
import unicodedata

_MARKUP = re.compile(r"</?[A-Za-z][^>]*>|```|\*\*|^\s*[#>|]|\[[^\]]*\]\(|&[a-z]+;|<\|")


def is_marked_up(text: str) -> bool:
    """Return whether a text holds HTML, Markdown, or a control token of a chat template."""
    return _MARKUP.search(text) is not None


def is_foreign(text: str) -> bool:
    """Return whether most letters are not Latin, the script that the prompts ask for."""
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum("LATIN" in unicodedata.name(letter, "") for letter in letters)
    return 2 * latin < len(letters)
