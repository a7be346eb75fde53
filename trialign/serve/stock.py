"""Named lists of items: which may be recommended, and which not. A file is read again when it changes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialign.data.key_file import read_keys
from trialign.errors import ConfigError, DataError
from trialign.serve.catalogue import Catalogue
from trialign.serve.refusal import RefusedError

log = logging.getLogger("trialign")

_NAME = re.compile(r"\w[\w.-]{0,99}")
_SUFFIX = ".txt"


class _Listed(NamedTuple):
    stamp: tuple[int, int, int]
    catalogue: Catalogue
    items: NDArray[np.int64]


class Stock:
    """The lists of a folder, NAME.txt with a key per line.

    Args:
        folder: of the lists; None: there are none.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise ConfigError(
                f"serve.stock={folder} is not a folder",
                rule="named lists are files NAME.txt of one folder",
                remedy="make the folder, with a file NAME.txt that holds one key per line",
            )
        self._folder = folder
        self._known: dict[str, _Listed] = {}

    def names(self) -> list[str]:
        """Return the names of the lists that are there now."""
        if self._folder is None:
            return []
        stems = (path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return sorted(stem for stem in stems if _NAME.fullmatch(stem))

    def items(self, name: str, catalogue: Catalogue) -> NDArray[np.int64]:
        """Return the items of a list, as its file has them now; it looks at the disk.

        Raises:
            RefusedError: there is no such list.
        """
        known = self._known.get(name)
        try:
            stamp = self._stamp(name)
            if known is None or known.stamp != stamp or known.catalogue is not catalogue:
                known = _Listed(stamp, catalogue, self._read(name, catalogue))
                self._known[name] = known
        except (OSError, DataError) as cause:
            self._known.pop(name, None)
            raise RefusedError(
                422,
                f"no stock list '{name}'",
                rule="a list is named as its file NAME.txt in serve.stock, UTF-8 with a key per line",
                remedy=f"there are: {', '.join(self.names()) or 'none'}; or send the keys themselves",
            ) from cause
        return known.items

    def _path(self, name: str) -> Path:
        if self._folder is None or not _NAME.fullmatch(name):
            raise FileNotFoundError(name)
        return self._folder / f"{name}{_SUFFIX}"

    def _stamp(self, name: str) -> tuple[int, int, int]:
        status = self._path(name).stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self, name: str, catalogue: Catalogue) -> NDArray[np.int64]:
        keys = dict.fromkeys(read_keys(self._path(name)))
        items = [catalogue.index[key] for key in keys if key in catalogue.index]
        log.info("stock list %s: %d items, %d keys that the catalogue lacks", name, len(items), len(keys) - len(items))
        return np.array(items, dtype=np.int64)
