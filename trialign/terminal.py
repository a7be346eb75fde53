"""The terminal: the one place that makes a rich console, whose strings are text and never markup."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console
from rich.text import Text

from trialign.foreign import LINES, harmless


def console(*, width: int | None = None, file: IO[str] | None = None) -> Console:
    """Return a console for tables and lines.

    Args:
        width: columns; None: the terminal's.
        file: where to write, without colors; None: standard output.
    """
    return _Plain(width=width, file=file, color_system="auto" if file is None else None, highlight=False)


class _Plain(Console):
    """Shows brackets and colons as they are, and controls written out, in cells and headings too."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text that rich shows for a string; markup and emoji codes are never read."""
        return super().render_str(harmless(text, keep=LINES), **(options | {"markup": False, "emoji": False}))
