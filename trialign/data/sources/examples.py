"""Ready examples with a given split: one set of files per split."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import ibis

from trialign.data.source import RawData
from trialign.data.sources.catalogue_files import CatalogueFiles
from trialign.data.sources.columns import as_key, as_keys, pick
from trialign.data.sources.formats import Dialect, Part, read_rows, readable
from trialign.data.sources.places import below, find, listed, roles
from trialign.types import Split


class Examples:
    """Examples (user, what was chosen before, what came next) split by whoever made them, and a catalogue.

    Args:
        root: folder that all names are below.
        train, validation, test: a path, a pattern, or a list of them, in the formats of `Tables`.
        format: of the examples, `parquet`, `csv`, `tsv`, `jsonl` or `recbole`; None: by suffix.
        columns: the columns of `user`, `items` and `target`.
        item_separator: what joins `items` where they are one text.
        delimiter: of CSV files; `items_delimiter` that of the catalogue's, None: the same.
        quotes: whether quotes around a value of CSV or TSV are no part of it, of the catalogue's too.
        items, item_columns, category_separator, captions, caption_after, images: see `CatalogueFiles`.

    Raises:
        ConfigError: a name does not exist.
        DataError: `root` is not set.
    """

    def __init__(
        self,
        *,
        root: Path | str | None,
        train: Any,
        validation: Any,
        test: Any,
        format: str | None,
        columns: Mapping[str, str],
        item_separator: str,
        delimiter: str,
        items_delimiter: str | None,
        quotes: bool,
        items: Any,
        item_columns: Mapping[str, Any],
        category_separator: str,
        captions: Any,
        caption_after: str | None,
        images: Any,
    ) -> None:
        self._root = below(root)
        self._splits = {
            "train": listed(train, "train"),
            "validation": listed(validation, "validation"),
            "test": listed(test, "test"),
        }
        assert set(self._splits) == set(get_args(Split))
        self._format = format
        self._columns = columns
        self._item_separator = item_separator
        self._dialect = Dialect(delimiter, quotes)
        self._catalogue = CatalogueFiles(
            root=root,
            items=items,
            item_columns=item_columns,
            category_separator=category_separator,
            captions=captions,
            caption_after=caption_after,
            images=images,
            dialect=Dialect(items_delimiter or delimiter, quotes, "items_delimiter"),
        )

    def sources(self) -> dict[str, Path]:
        """Return every file, by role, checked to exist."""
        found = self._catalogue.sources()
        for split, names in self._splits.items():
            found |= roles(self._root, split, find(self._root, names, split))
        return found

    def load(self, folder: Path) -> RawData:  # noqa: ARG002
        """Read the catalogue, and the examples lazily; `folder` is left alone."""
        items, images = self._catalogue.load()
        tables = []
        for split, names in self._splits.items():
            paths = find(self._root, names, split)
            for part in read_rows(paths, self._format, self._dialect):
                tables.append(self._typed(part, split))
        return RawData(items=items, images=images, examples=reduce(ibis.Table.union, tables), has_clock=False)

    def _typed(self, part: Part, split: str) -> ibis.Table:
        user, items, target = (pick(part, role, self._columns[role]) for role in ("user", "items", "target"))
        examples = part.table.select(
            user=as_key(user, part.paths),
            items=as_keys(items, self._item_separator, part.paths),
            target=as_keys(target, None, part.paths),
            split=ibis.literal(split),
        )
        with readable(part.paths):
            # A file that breaks off in the middle is named here, where its name is known.
            examples.aggregate(users=examples.user.max(), longest=examples["items"].length().max()).to_pyarrow()
        return examples
