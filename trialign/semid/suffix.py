"""Resolve collisions by one more level, which numbers the items that share a tuple."""

from __future__ import annotations

import numpy as np

from trialign.errors import ConfigError
from trialign.semid.assign import Assignment, Codes, FixedAssignments


def suffix(codes_NL: Codes, codebook_size: int, held: FixedAssignments | None = None) -> Assignment:
    """Append one code to all items: 0, or 0, 1, 2, ... in catalogue order for items that share a tuple.

    No code of the quantizer changes, so distortion stays equal; `items_moved` counts the last codes that are not 0.

    Args:
        codes_NL: the quantizer's codes.
        codebook_size: K, also of the new level.
        held: tuples of L + 1 codes that must not change; the other items skip them.

    Raises:
        ConfigError: more items share a tuple than a level has codes.
    """
    num_items, num_levels = codes_NL.shape
    codes = np.concatenate([codes_NL, np.full((num_items, 1), -1)], axis=1)
    if held is not None:
        codes, _ = held.over(codes)
    _, group_X = np.unique(codes[:, :num_levels], axis=0, return_inverse=True)
    group_X = group_X.ravel()
    taken: dict[int, set[int]] = {}
    for group, code in zip(group_X[codes[:, -1] >= 0], codes[codes[:, -1] >= 0, -1], strict=True):
        taken.setdefault(int(group), set()).add(int(code))
    for row in np.flatnonzero(codes[:, -1] < 0):
        used = taken.setdefault(int(group_X[row]), set())
        codes[row, -1] = next(code for code in range(len(used) + 1) if code not in used)
        used.add(int(codes[row, -1]))
    most = max(map(len, taken.values()))
    if most > codebook_size:
        raise ConfigError(
            f"{most} items share one tuple of {num_levels} codes",
            rule=f"the added level has K = {codebook_size} codes, so it tells at most {codebook_size} items apart",
            remedy="set assign.policy=reassign, or quantize with more levels or richer vectors",
        )
    codes = codes[:num_items]
    return Assignment(codes, codes[:, :-1], items_moved=int((codes[:, -1] > 0).sum()))
