"""The table of a catalogue's semantic IDs, with a digest that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from trialign.errors import DataError
from trialign.foreign import parse_json
from trialign.types import NO_ITEM

_FORMAT = 1
_HEADER, _CODES, _CODEBOOKS = "sids.json", "codes.npy", "codebooks.safetensors"


class SIDTable:
    """One unique tuple of L codes for each item.

    Args:
        codes_NL: codes, row n for item n, each 0..K-1.
        codebook_size: K.
        item_keys: the catalogue's key of each item, in the order of the rows.
        policy: how collisions were resolved.
        codebooks_LKD: the code vectors, float32; None for an imported table without them.

    Raises:
        DataError: codes out of range, two items with one tuple, or unequal numbers of keys and rows.

    Examples:
        >>> sids = trialign.SIDTable.load("runs/quickstart/assign")
        >>> sids.codes_NL.shape
        (64, 3)
        >>> sids.item_of(sids.codes_NL[[5, 7]])
        array([5, 7], dtype=int32)
    """

    def __init__(
        self,
        codes_NL: NDArray[np.integer],
        codebook_size: int,
        item_keys: Sequence[str],
        policy: str,
        codebooks_LKD: NDArray[np.float32] | None = None,
    ) -> None:
        self.codes_NL: NDArray[np.int64] = np.array(codes_NL, dtype="<i8", order="C")
        self.codes_NL.flags.writeable = False
        self.codebook_size = codebook_size
        self.item_keys = list(item_keys)
        self.policy = policy
        self.codebooks_LKD = codebooks_LKD
        self._check()

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.codes_NL)

    @property
    def num_levels(self) -> int:
        """L."""
        return int(self.codes_NL.shape[1])

    @cached_property
    def digest(self) -> str:
        """sha256 over K, the codes and the keys they belong to: equal exactly when two tables assign the same IDs."""
        found = hashlib.sha256(json.dumps([self.codebook_size, *self.codes_NL.shape]).encode())
        found.update(self.codes_NL.tobytes())
        found.update(json.dumps(self.item_keys).encode())
        return found.hexdigest()

    def item_of(self, codes: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the item of each tuple.

        Args:
            codes: [..., L]; values outside 0..K-1 are legal and belong to no item.

        Returns:
            int32 [...], NO_ITEM where no item has the tuple.
        """
        numbers = flat_codes(codes, self.codebook_size)
        inside = ((codes >= 0) & (codes < self.codebook_size)).all(axis=-1)
        rank = np.searchsorted(self._numbers, numbers, sorter=self._order).clip(max=self.num_items - 1)
        item = self._order[rank]
        return np.where(inside & (self._numbers[item] == numbers), item, NO_ITEM).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write `codes.npy`, `codebooks.safetensors` (where there are any) and `sids.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _CODES, self.codes_NL, allow_pickle=False)
        if self.codebooks_LKD is not None:
            save_file(
                {"codebooks_LKD": np.ascontiguousarray(self.codebooks_LKD)},
                folder / _CODEBOOKS,
            )
        header = {
            "format": _FORMAT,
            "num_items": self.num_items,
            "num_levels": self.num_levels,
            "codebook_size": self.codebook_size,
            "policy": self.policy,
            "digest": self.digest,
            "item_keys": self.item_keys,
        }
        (folder / _HEADER).write_text(json.dumps(header))

    @classmethod
    def load(cls, folder: Path | str) -> SIDTable:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing or unreadable, or the codes and keys no longer match their digest.
        """
        folder = Path(folder)
        try:
            header = parse_json((folder / _HEADER).read_text())
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}, this version reads {_FORMAT}")
            codes_NL = np.load(folder / _CODES, allow_pickle=False)
            books = folder / _CODEBOOKS
            codebooks_LKD = load_file(books)["codebooks_LKD"] if books.exists() else None
        except (OSError, ValueError, KeyError) as cause:
            raise DataError(
                f"no SID table can be read from {folder}: {cause}",
                rule=f"a folder that `trialign assign` finished holds {_HEADER} and {_CODES}",
                remedy="name the assign folder of a finished run, or run `trialign assign` again",
            ) from cause
        table = cls(
            codes_NL,
            header["codebook_size"],
            header["item_keys"],
            header["policy"],
            codebooks_LKD,
        )
        if table.digest != header["digest"]:
            raise DataError(
                f"{folder} holds codes with digest {table.digest[:12]}, its header says {header['digest'][:12]}",
                rule="a SID table is read back exactly as it was written",
                remedy="restore the folder from a copy, or run `trialign assign` again",
            )
        return table

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return flat_codes(self.codes_NL, self.codebook_size)

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self._numbers, kind="stable")

    def _check(self) -> None:
        rule = "every item has its own tuple of codes in 0..K-1"
        if self.codes_NL.ndim != 2 or len(self.item_keys) != len(self.codes_NL):
            raise DataError(
                f"codes of shape {self.codes_NL.shape} for {len(self.item_keys)} item keys",
                rule="codes are [N, L], with one key for each of the N items",
                remedy="take codes and keys from the same catalogue",
            )
        wrong = np.argwhere((self.codes_NL < 0) | (self.codes_NL >= self.codebook_size))
        if len(wrong):
            item, level = wrong[0]
            raise DataError(
                f"item {self.item_keys[item]!r} has code {self.codes_NL[item, level]} at level {level + 1}",
                rule=f"{rule}; K = {self.codebook_size}",
                remedy="set codebook_size to what the codes were made with",
            )
        same = np.flatnonzero(np.diff(self._numbers[self._order]) == 0)
        if len(same):
            one, other = (self.item_keys[self._order[same[0] + step]] for step in (0, 1))
            raise DataError(
                f"items {one!r} and {other!r} share a tuple ({len(same)} such pairs)",
                rule=rule,
                remedy="assign semantic IDs with `trialign assign`, which moves colliding items apart",
            )


def flat_codes(codes: NDArray[np.integer], codebook_size: int) -> NDArray[np.int64]:
    """Return each tuple (last axis, in 0..K-1) as one integer, in lexicographic order of the tuples.

    Raises:
        DataError: K^L tuples do not fit into 64 bits.
    """
    num_levels = codes.shape[-1]
    if codebook_size**num_levels >= 2**63:
        raise DataError(
            f"num_levels = {num_levels} with codebook_size = {codebook_size}",
            rule="the K^L tuples are numbered by 63-bit integers",
            remedy="lower num_levels or codebook_size",
        )
    weights = codebook_size ** np.arange(num_levels - 1, -1, -1, dtype=np.int64)
    numbers: NDArray[np.int64] = codes.astype(np.int64) @ weights
    return numbers
