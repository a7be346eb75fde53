"""Store vectors on disk: one memory-mapped array per modality, and the vectors of the items' interests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialign.errors import DataError

PRESENT = ".present.npy"
"""Ends the name of the file that says which items have a vector."""
INTERESTS = "interests"
"""Folder of the interests' vectors, and the name of their files."""
_BLOCK = 65536  # rows checked at a time, since the file may be larger than memory


@dataclass(frozen=True)
class Modality:
    """One vector per item, and a mask of the items that have one.

    Args:
        vectors_ND: float32; the row of an item without evidence is zero and is never read.
        present_N: bool.
    """

    vectors_ND: NDArray[np.float32]
    present_N: NDArray[np.bool_]

    @property
    def dim(self) -> int:
        """D."""
        return int(self.vectors_ND.shape[1])


@dataclass(frozen=True)
class Interests:
    """The vectors of all distinct interests, and which of them each item has.

    Args:
        vectors_UD: float32, one row per distinct interest.
        ids_M: int64, rows of `vectors_UD`; those of one item are adjacent, strongest first.
        offsets: int64 [N + 1]; item i has ids_M[offsets[i] : offsets[i + 1]], perhaps none.
    """

    vectors_UD: NDArray[np.float32]
    ids_M: NDArray[np.int64]
    offsets: NDArray[np.int64]


def check(modalities: Mapping[str, Modality], item_keys: Sequence[str] | None = None) -> None:
    """Raise an error if the vectors of a stage cannot be used by later stages.

    Args:
        modalities: vectors by name of the modality.
        item_keys: names for the error; row numbers without them.

    Raises:
        DataError: no modality, one that no item has, modalities of different catalogues, or a value that is not finite.
    """
    if not modalities:
        raise DataError(
            "no modality is embedded",
            rule="an item is described by at least one modality",
            remedy="set embed/text=tfidf, embed/image=open_clip or embed/collaborative=ppmi",
        )
    sizes = {name: found.vectors_ND.shape for name, found in modalities.items()}
    if len({size[0] for size in sizes.values()}) > 1:
        raise DataError(
            f"modalities of unequal length: {sizes}",
            rule="every modality has one row per item of the catalogue",
            remedy="run `trialign embed` again for this catalogue",
        )
    for name, found in modalities.items():
        if not found.present_N.any():
            raise DataError(
                f"no item has a vector of the {name} modality",
                rule="a modality describes at least one item",
                remedy=f"leave it out with embed/{name}=none",
            )
        blocks = (found.vectors_ND[start : start + _BLOCK] for start in range(0, len(found.vectors_ND), _BLOCK))
        finite_N = np.concatenate([np.isfinite(block).all(axis=1) for block in blocks]) | ~found.present_N
        if not finite_N.all():
            first = int(np.flatnonzero(~finite_N)[0])
            item = repr(item_keys[first]) if item_keys is not None else f"in row {first}"
            raise DataError(
                f"the {name} vector of item {item} holds NaN or infinity ({(~finite_N).sum()} such items)",
                rule="vectors are finite",
                remedy=f"fix that item's evidence or the checkpoint of embed.{name}, or set embed/{name}=none",
            )


def save(folder: Path, modalities: Mapping[str, Modality], item_keys: Sequence[str]) -> None:
    """Write `<modality>.npy` (float32 [N, D]) and `<modality>.present.npy` (bool [N]).

    Raises:
        DataError: see `check`.
    """
    check(modalities, item_keys)
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in modalities.items():
        np.save(folder / f"{name}.npy", found.vectors_ND.astype(np.float32), allow_pickle=False)
        np.save(folder / f"{name}{PRESENT}", found.present_N, allow_pickle=False)


def load(folder: Path) -> dict[str, Modality]:
    """Read what `save` wrote, memory-mapped, by name of the modality in alphabetical order.

    Raises:
        DataError: the folder holds no vectors.
    """
    names = sorted(path.name.removesuffix(PRESENT) for path in folder.glob(f"*{PRESENT}"))
    if not names:
        raise DataError(
            f"{folder} holds no vectors",
            rule="a finished embed folder holds <modality>.npy files",
            remedy="run `trialign embed` for that run first",
        )
    return {
        name: Modality(
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / f"{name}{PRESENT}", allow_pickle=False),
        )
        for name in names
    }


def save_interests(folder: Path, found: Modality, interests: Sequence[Sequence[int]]) -> None:
    """Write `ids.npy` and `offsets.npy`, which say what rows of `interests.npy` belong to each item.

    Args:
        folder: the embed stage's.
        found: the vectors of the distinct interests; one without a vector is left out of every item's.
        interests: of each item, rows of `found`.
    """
    kept = [[row for row in rows if found.present_N[row]] for rows in interests]
    offsets = np.cumsum([0, *map(len, kept)], dtype=np.int64)
    np.save(folder / INTERESTS / "ids.npy", np.array([row for rows in kept for row in rows], np.int64))
    np.save(folder / INTERESTS / "offsets.npy", offsets)


def load_interests(folder: Path) -> Interests | None:
    """Return the vectors of the items' interests, memory-mapped; None where they were not embedded."""
    if not (folder / INTERESTS).is_dir():
        return None
    names = (f"{INTERESTS}.npy", "ids.npy", "offsets.npy")
    return Interests(*(np.load(folder / INTERESTS / name, mmap_mode="r", allow_pickle=False) for name in names))
