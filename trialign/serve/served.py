"""What a service serves: a catalogue and a ranker, of a finished run or of an exported bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trialign.data.dataset import User
from trialign.errors import StageError
from trialign.files import digest_of
from trialign.manifest import Manifest
from trialign.run import Run
from trialign.serve.catalogue import Catalogue
from trialign.serve.details import Details, OfRun
from trialign.serve.lookup import Lookup
from trialign.stage import finished_and_gone
from trialign.types import Items


class Rank(Protocol):
    """The `rank` of a ranker, as `GeneratorRanker.rank`."""

    def __call__(
        self,
        histories: list[Items],
        k: int,
        *,
        exclude: Sequence[Items] | None,
        stock: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return items_BK and scores_BK; `stock`: bool [N] or [B, N], the items that may be ranked."""
        ...


@dataclass(frozen=True)
class Served:
    """A catalogue and the ranker that was trained on it; an answer is from one such object.

    Args:
        catalogue: its items.
        rank: ranks arrays of item indices.
        digest: tells one bundle or run from another.
        user: returns a user of the logs by key; None where users are not known.
        of_run: what only the page shows, of a run; None for an exported bundle.
    """

    catalogue: Catalogue
    rank: Rank
    digest: str
    user: Callable[[str], User] | None
    of_run: OfRun | None = None

    @cached_property
    def details(self) -> Details:
        """What the page shows beyond recommendations; made when it is first asked for."""
        return Details(self.catalogue, self.of_run)


class RunSource:
    """A finished run that is served: its generator, its catalogue and the users of its logs.

    Args:
        folder: the run's directory.
        from_stage: see `Run`.
        generator: see `Run`.
        accelerator: see `Run`.
        num_beams: beams of the search.
        batch_size: histories per search.
    """

    def __init__(
        self,
        folder: Path,
        *,
        from_stage: Mapping[str, Path],
        generator: str,
        accelerator: str,
        num_beams: int,
        batch_size: int,
    ) -> None:
        self._folder, self._from_stage = folder, from_stage
        self._generator, self._accelerator = generator, accelerator
        self._num_beams, self._batch_size = num_beams, batch_size

    def load(self) -> Served:
        """Return what serves the run as it is now.

        Raises:
            StageError: a stage is not finished, or lacks files.
        """
        run = self._run()
        stages = {verb: run.stage(verb) for verb in (self._generator, "assign", "prepare")}
        manifests = {verb: Manifest.read(folder) for verb, folder in stages.items()}
        for verb, folder in stages.items():
            if gone := manifests[verb].not_whole(folder):
                raise finished_and_gone(folder, gone, f"make the stage again: trialign {verb} with rebuild=true")
        lookup = Lookup(run.dataset)
        titles = run.dataset.items["title"].combine_chunks()
        ranker = run.ranker(num_beams=self._num_beams, batch_size=self._batch_size)
        if {verb: Manifest.read(folder).hash for verb, folder in stages.items()} != {
            verb: manifest.hash for verb, manifest in manifests.items()
        }:
            raise StageError(
                f"{self._folder} changed while it was loaded",
                rule="a run is served when its stages are finished",
                remedy="wait until the pipeline has ended",
            )
        digest = digest_of({verb: manifest.hash for verb, manifest in manifests.items()})
        catalogue = Catalogue(run.dataset.keys, titles, run.sids.codes_NL)
        of_run = OfRun(run.dataset.items, lookup, ranker, run.sids.codebooks_LKD)
        return Served(catalogue, ranker.rank, digest, lookup.user, of_run)

    def size(self) -> int:
        """Return the bytes of the files that are loaded."""
        run = self._run()
        files = [*run.manifest(self._generator).files.values(), *run.manifest("assign").files.values()]
        return sum(file["bytes"] for file in files) + run.manifest("prepare").files["items.parquet"]["bytes"]

    def _run(self) -> Run:
        return Run(
            self._folder,
            from_stage=self._from_stage,
            generator=self._generator,
            accelerator=self._accelerator,
        )


class BundleSource:
    """An exported folder that is served; its users are not known.

    Args:
        folder: of the bundle; a link is followed at every load, so that switching it puts another bundle in place.
        num_beams: beams of the search.
    """

    def __init__(self, folder: Path, *, num_beams: int) -> None:
        self._folder, self._num_beams = folder, num_beams

    def load(self) -> Served:
        """Return what serves the bundle as it is now; errors as `Bundle.open`."""
        from trialign.export.bundle import Bundle  # imports torch

        bundle = Bundle.open(self._folder.resolve())
        catalogue = Catalogue(bundle.items.keys, pa.array(bundle.items.titles), bundle.items.sids.codes_NL)
        return Served(catalogue, bundle.ranker(num_beams=self._num_beams).rank_items, bundle.digest, None)

    def size(self) -> int:
        """Return the bytes of its files."""
        return sum(file["bytes"] for file in Manifest.read(self._folder).files.values())
