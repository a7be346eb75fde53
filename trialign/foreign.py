"""Make text from outside (titles, keys, replies, paths) safe to parse and to show.

A terminal obeys escape sequences, and anything that draws text reorders it at a direction control, so that what is read
is not what is there. `harmless` escapes such characters. Each output adds its own escaping: `terminal.console`
for a terminal, `html.render` for HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What a JSON text can say."""

_ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]")
"""Controls, lines' and paragraphs' ends, direction controls, byte order and annotation marks, halves of characters."""

LINES = "\n\t"
"""What `harmless` keeps where text may have several lines."""


def harmless(text: str, *, keep: str = "") -> str:
    r"""Return `text` with control characters escaped, e.g. `\x1b` and `\u202e`.

    Args:
        text: from outside.
        keep: characters that stay as they are, such as `LINES`.
    """
    return _ACTS.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def parse_json(text: str | bytes, **how: Any) -> Any:
    """Parse a JSON text; `how` as in `json.loads`.

    Raises:
        ValueError: it is not JSON, or nested too deeply for Python's parser, which alone would raise another error.
    """
    try:
        return json.loads(text, **how)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
