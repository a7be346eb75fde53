"""Ready examples with a given split: one set of files per split."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import get_args

import ibis
from typing_extensions import override

from trialign.config.data import ExamplesConfig
from trialign.data.source import RawData, Source
from trialign.data.sources.catalogue_files import CatalogueFiles
from trialign.data.sources.columns import as_key, as_keys, require_columns
from trialign.data.sources.formats import Dialect, Part, read_rows, readable
from trialign.data.sources.places import below, find, listed, roles
from trialign.types import Split


class Examples(Source):
    """Examples (user, what was chosen before, what came next) with a given split, and a catalogue.

    Args:
        settings: the group `data`.

    Raises:
        ConfigError: a name does not exist.
        DataError: `root` is not set.
    """

    def __init__(self, settings: ExamplesConfig) -> None:
        self._root = below(settings.root)
        self._splits = {
            "train": listed(settings.train, "train"),
            "validation": listed(settings.validation, "validation"),
            "test": listed(settings.test, "test"),
        }
        assert set(self._splits) == set(get_args(Split))
        self._format = settings.format
        self._columns = settings.columns
        self._item_separator = settings.item_separator
        self._dialect = Dialect(settings.delimiter, settings.quotes)
        self._catalogue = CatalogueFiles(settings)

    def sources(self) -> dict[str, Path]:
        """Return every file, by role, checked to exist."""
        found = self._catalogue.sources()
        for split, names in self._splits.items():
            found |= roles(self._root, split, find(self._root, names, split))
        return found

    @override
    def load(self, folder: Path) -> RawData:
        """Read the catalogue, and the examples lazily; `folder` is not used."""
        items, images = self._catalogue.load()
        tables = []
        for split, names in self._splits.items():
            paths = find(self._root, names, split)
            for part in read_rows(paths, self._format, self._dialect):
                tables.append(self._typed(part, split))
        return RawData(items=items, images=images, examples=reduce(ibis.Table.union, tables), has_clock=False)

    def _typed(self, part: Part, split: str) -> ibis.Table:
        columns, table = self._columns, part.table
        wanted = [("user", columns.user), ("items", columns.items), ("target", columns.target)]
        require_columns(part.paths[0], "data.columns", wanted, table.columns)
        examples = table.select(
            user=as_key(table[columns.user], part.paths),
            items=as_keys(table[columns.items], self._item_separator, part.paths),
            target=as_keys(table[columns.target], None, part.paths),
            split=ibis.literal(split),
        )
        with readable(part.paths):
            # Here the error for a truncated file can name it.
            examples.aggregate(users=examples.user.max(), longest=examples["items"].length().max()).to_pyarrow()
        return examples
