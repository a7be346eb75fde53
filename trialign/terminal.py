"""Rich consoles for the terminal, whose strings are text and never markup; no other module makes one."""

from __future__ import annotations

import sys
from typing import IO, Any, TextIO

from rich.console import Console
from rich.text import Text

from trialign.foreign import LINES, harmless

_UNBROKEN = 100_000
"""Columns of a file or a pipe: what reads them wants a line's text in one line."""


def console(*, width: int | None = None, file: IO[str] | None = None) -> Console:
    """Return a console for tables and lines.

    Args:
        width: columns; None: those of the terminal, or as many as it takes where standard output is none.
        file: where to write, without colors; None: standard output.
    """
    if width is None and not (file or sys.stdout).isatty():
        width = _UNBROKEN
    return _Plain(width=width, file=file, color_system="auto" if file is None else None, highlight=False)


def moving(terminal: TextIO) -> Console:
    """Return a console for output that is redrawn in place on a terminal."""
    return _Plain(file=terminal, force_terminal=True, highlight=False)


class _Plain(Console):
    """Shows brackets and colons as they are, and controls written out, in cells and headings too."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text that rich shows for a string; markup and emoji codes are never read."""
        return super().render_str(harmless(text, keep=LINES), **(options | {"markup": False, "emoji": False}))
