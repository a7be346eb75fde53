"""Read published semantic IDs: the index files of LC-Rec, LETTER and repositories in the same format."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trialign.errors import DataError
from trialign.foreign import parse_json
from trialign.semid.policy import ItemCodes

log = logging.getLogger("trialign")

_TOKEN = re.compile(r"<([a-z])_(\d{1,9})>")


def read_index(path: Path, item_keys: Sequence[str]) -> ItemCodes:
    """Read `{item: ["<a_12>", "<b_3>", ...]}`: the letter is the level, the number is the code.

    Args:
        path: the file.
        item_keys: the catalogue, in the order of the rows; other items of the file are skipped with a warning.

    Returns:
        The codes; K is the largest code plus one.

    Raises:
        DataError: no such file, another layout, items without codes, or items of unequal depth.
    """
    try:
        tokens = dict(parse_json(path.read_text()).items())
        missing = [key for key in item_keys if key not in tokens]
        rows = [] if missing else [_codes(key, tokens[key]) for key in item_keys]
    except (OSError, ValueError, TypeError, AttributeError) as cause:
        raise DataError(
            f"{path} cannot be read as an index: {cause}",
            rule='an index is JSON, {item: ["<a_12>", "<b_3>", ...]}, letters in the order of the levels',
            remedy="name such a file with assign.index=FILE",
        ) from cause
    if missing:
        raise DataError(
            f"{path} has no codes for {len(missing)} of {len(item_keys)} items, the first is '{missing[0]}'",
            rule="every item of the catalogue has a semantic ID",
            remedy="prepare the catalogue the file was made for, under its keys; items that came later are added with "
            "assign.extend=RUN, RUN holding the imported ones",
        )
    depths = sorted({len(row) for row in rows})
    if len(depths) > 1:
        odd = next(key for key, row in zip(item_keys, rows, strict=True) if len(row) != len(rows[0]))
        raise DataError(
            f"{path} gives item '{item_keys[0]}' {len(rows[0])} codes and item '{odd}' another number",
            rule="all semantic IDs of a table have one depth",
            remedy="fill the shorter ones up with one more code, 0 say",
        )
    if num_unknown := len(tokens) - len(rows):
        log.warning("%s: %d of its %d items are not in the catalogue and left out", path, num_unknown, len(tokens))
    codes_NL = np.array(rows, dtype=np.int64)
    return ItemCodes(codes_NL, int(codes_NL.max()) + 1)


def _codes(key: str, tokens: Any) -> list[int]:
    found = [_TOKEN.fullmatch(token) for token in tokens]
    if not found or any(match is None or match[1] != chr(97 + level) for level, match in enumerate(found)):
        raise ValueError(f"item '{key}' has {tokens!r}")
    return [int(match[2]) for match in found if match]
