"""Read a file of item keys, one a line: a list of what is in stock, or of what is sold out."""

from __future__ import annotations

from pathlib import Path

from trialign.errors import DataError


def read_keys(path: Path | str) -> list[str]:
    """Return the keys in a text file, one a line; empty lines are skipped.

    Raises:
        DataError: it cannot be read as text.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as cause:
        raise DataError(
            f"no item keys can be read from {path}: {cause}",
            rule="a list of items is a text file in UTF-8 with one key a line",
            remedy="fix the path, or write the keys into that file",
        ) from cause
    return [line for line in text.split("\n") if line]
