"""How a generator of one item encoding leaves trialign: the interface, and the table of encodings."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from trialign.config.export import ExportConfig
from trialign.data.dataset import Dataset
from trialign.export import files
from trialign.foreign import Json
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.save_load import TrainedGenerator, load_generator, load_ranker
from trialign.generate.task import ItemTexts
from trialign.semid.table import SIDTable


@dataclass(frozen=True)
class Source:
    """What a bundle is made from.

    Args:
        dataset: of the run.
        texts: of its items, captions and interests included where the generator was trained on them.
        sids: the semantic IDs of its items.
        folder: of the stage that trained the generator.
    """

    dataset: Dataset
    texts: ItemTexts
    sids: SIDTable
    folder: Path

    def load(self) -> TrainedGenerator:
        """Return the generator, read anew: a form may take its modules apart."""
        return load_generator(self.folder, self.sids)

    def ranker(self, num_beams: int) -> GeneratorRanker:
        """Return the ranker of the generator, the reference of the bundle's."""
        return load_ranker(self.folder, self.sids, num_beams=num_beams, batch_size=32, device="cpu")


class BundleRanker(Protocol):
    """What the code of every bundle returns from `load(folder)`."""

    keys: list[str]
    max_history: int

    def rank_items(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
        stock: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history by index, and their log-probabilities.

        Args:
            histories: B arrays of item indices, oldest first.
            k: how many items.
            exclude: B arrays of items that are left out.
            stock: bool [N] or [B, N], the items that may be recommended; None: all.
        """
        ...


@dataclass(frozen=True)
class Comparison:
    """What a form compared with the generator it was made from, after it read its files again.

    Args:
        rows: the rows of tokens, or histories, of which every output was compared.
        largest_difference: of two outputs.
    """

    rows: int
    largest_difference: float


class Form(Protocol):
    """A module of `trialign/export/` that writes and reads the bundles of one item encoding.

    Attributes:
        SEARCHES: whether its ranker searches by beams, and so may miss items.
        LIBRARY: what loads it, as model cards name it.
        COMPARED: what `compare` counts as rows.
    """

    SEARCHES: bool
    LIBRARY: str
    COMPARED: str

    def facts(self, trained: TrainedGenerator, settings: ExportConfig) -> dict[str, Json]:
        """Return what `items/sids.json` says besides the items.

        Raises:
            ConfigError: the generator cannot be exported exactly, and why.
        """
        ...

    def write(self, source: Source, folder: Path, settings: ExportConfig) -> None:
        """Write the model and its code."""
        ...

    def compare(self, source: Source, folder: Path, settings: ExportConfig) -> Comparison:
        """Read the files again and compare their outputs with those of the generator.

        Raises:
            StageError: they differ.
        """
        ...

    def load(self, folder: Path, *, num_beams: int) -> BundleRanker:
        """Return the ranker of a bundle."""
        ...

    def commands(self, folder: Path) -> str:
        """Return the part of the bundle's README that says how it is loaded."""
        ...


_FORMS = {"tokens": "trialign.export.tokens", "position": "trialign.export.position"}
"""By the name of the item encoding."""


def form_of(encoding: str) -> Form:
    """Return the form of an item encoding."""
    return cast(Form, importlib.import_module(_FORMS[encoding]))


def copy_file(name: str, folder: Path, target: str | None = None) -> None:
    """Copy a module of `trialign/export/files/` into a bundle."""
    place = folder / (target or name)
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(Path(files.__path__[0]) / name, place)
