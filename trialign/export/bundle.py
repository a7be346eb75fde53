"""Open an exported folder: checked against its manifest before anything in it is believed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NoReturn

from trialign.errors import StageError
from trialign.export.form import BundleRanker, form_of
from trialign.export.items import BundleItems, read_items
from trialign.files import digest_of, sha256_of
from trialign.manifest import MACHINE, MANIFEST, Manifest

_REMEDY = "copy the whole folder again from where it was exported, or make it again by `trialign export run=DIR`"


class Bundle:
    """An exported folder whose files are those that its manifest names.

    Args:
        folder: of the bundle.
        manifest: of the stage `export` that made it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @staticmethod
    def open(folder: Path | str) -> Bundle:
        """Check every file of a bundle and return it.

        Raises:
            StageError: it is no bundle, a file is missing or changed, or its items are another catalogue's.
            DataError: its items cannot be read.
        """
        folder = Path(folder).expanduser().absolute()
        if not (folder / MANIFEST).is_file():
            _refuse(f"{folder} is not a bundle", f"a bundle holds {MANIFEST}, which `trialign export` writes last")
        manifest = Manifest.read(folder)
        if manifest.stage != "export":
            _refuse(f"{folder} is the stage '{manifest.stage}' of a run", "a bundle is what `trialign export` writes")
        if damaged := manifest.not_whole(folder):
            _refuse(f"{folder} lacks {', '.join(damaged)}", "a bundle holds every file of its manifest")
        digests = {name: found["sha256"] for name, found in manifest.files.items() if Path(name).name != MACHINE}
        if digest_of(digests) != manifest.hash:
            _refuse(f"{folder / MANIFEST} was edited", "the hash of a manifest is that of the digests in it")
        for name, digest in digests.items():
            if sha256_of(folder / name) != digest:
                _refuse(f"{folder / name} was changed", "a file has the digest that the manifest recorded")
        bundle = Bundle(folder, manifest)
        if bundle.items.sids.digest != manifest.counts.get("sids"):
            _refuse(f"{folder / 'items'} is another catalogue's", "model and items were exported together")
        return bundle

    @property
    def digest(self) -> str:
        """What tells this bundle from every other: the hash over the digests of its files."""
        return self.manifest.hash

    @cached_property
    def items(self) -> BundleItems:
        """Keys, titles and semantic IDs of the items."""
        return read_items(self.folder)

    def ranker(self, *, num_beams: int = 50) -> BundleRanker:
        """Return what ranks histories, loaded anew; trialign's own code runs, not what lies in the folder.

        Args:
            num_beams: the prefixes that a search keeps, and the most items that it returns.
        """
        return form_of(str(self.manifest.counts["encoding"])).load(self.folder, num_beams=num_beams)


def _refuse(value: str, rule: str) -> NoReturn:
    raise StageError(value, rule=rule, remedy=_REMEDY)
