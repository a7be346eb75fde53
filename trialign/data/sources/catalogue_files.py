"""A catalogue in files: columns by config, captions from a file of their own, pictures from folders and tars."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from trialign.config.data import FilesConfig
from trialign.data.sources.columns import require_columns
from trialign.data.sources.endings import ending_of, format_of
from trialign.data.sources.evidence import TEXTS, Row, items_table, refuse
from trialign.data.sources.formats import Dialect, json_lines, read_rows, readable
from trialign.data.sources.inter_json import object_records
from trialign.data.sources.pictures import picture_files, read_pictures, stem_of
from trialign.data.sources.places import below, find, listed, roles
from trialign.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_JOINABLE = ("title", "description")
_Columns = Mapping[str, list[str]]
_Rows = Callable[[], Iterable[Row]]


class CatalogueFiles:
    """The part of a source that reads its catalogue.

    Items are in Parquet, CSV, TSV, JSON lines, RecBole's `.item`, or `.json`, one object `{item: {field: value}}`;
    captions in the same formats. Several columns make a title or a description of several lines. Pictures are in
    folders and in tar files, plain or WebDataset's.

    Args:
        settings: the group `data`.

    Raises:
        ConfigError: a name is no name.
        DataError: `root` is not set.
    """

    def __init__(self, settings: FilesConfig) -> None:
        self._root = below(settings.root)
        self._names = {
            "items": listed(settings.items, "items"),
            "captions": listed(settings.captions, "captions"),
            "images": listed(settings.images, "images"),
        }
        columns = settings.item_columns
        named = {
            "item": columns.item,
            "title": columns.title,
            "description": columns.description,
            "brand": columns.brand,
            "categories": columns.categories,
            "image": columns.image,
            "caption": columns.caption,
        }
        self._columns = {role: listed(name, f"item_columns.{role}") for role, name in named.items()}
        for role, names in self._columns.items():
            if len(names) > 1 and role not in _JOINABLE:
                raise ConfigError(
                    f"data.item_columns.{role} names {len(names)} columns",
                    rule=f"only {' and '.join(_JOINABLE)} may be put together from several columns",
                    remedy="name one",
                )
        self._category_separator = settings.category_separator
        self._caption_after = settings.caption_after
        self._dialect = Dialect(settings.items_delimiter or settings.delimiter, settings.quotes, "items_delimiter")

    def sources(self) -> dict[str, Path]:
        """Return every file that is read, by role, pictures included."""
        found: dict[str, Path] = {}
        for setting in self._names:
            paths = self._find(setting)
            found |= roles(self._root, setting, picture_files(paths) if setting == "images" else paths)
        return found

    def load(self) -> tuple[pa.Table, Callable[[], Iterator[tuple[str, bytes]]] | None]:
        """Return `RawData.items` and `RawData.images`."""
        columns = {
            role: names for role, names in self._columns.items() if role != "caption" or not self._names["captions"]
        }
        tables = [self._read(path, columns) for path in self._find("items")]
        items = pa.concat_tables(tables, promote_options="default")
        image_names = items["image" if "image" in items.column_names else "item"].to_pylist()
        keys: list[str | None] = items["item"].to_pylist()
        captions = items["caption"].to_pylist() if "caption" in items.column_names else None
        if self._names["captions"]:
            captions = self._captions_of(keys)
        items = items.select(["item", *TEXTS, "categories"])
        if captions is not None:
            items = items.append_column("caption", pa.array(self._cut(captions, keys), pa.string()))
        if not self._names["images"]:
            return items, None
        owners: dict[str, list[str]] = {}
        for key, name in zip(keys, image_names, strict=True):
            if key and name:
                owners.setdefault(stem_of(name), []).append(key)
        return items, partial(read_pictures, self._find("images"), owners)

    def _cut(self, captions: Sequence[str | None], keys: Sequence[str | None]) -> list[str]:
        """Return the part of each caption after the mark."""
        mark = self._caption_after
        if mark is None:
            return [text or "" for text in captions]
        bare = [key for key, text in zip(keys, captions, strict=True) if text and mark not in text]
        if bare:
            raise DataError(
                f"the text of {len(bare)} captions lacks the mark {mark!r}, e.g. that of item '{bare[0]}'",
                rule="data.caption_after is in the text of every caption",
                remedy="fix the mark, or set data.caption_after=null",
            )
        return [(text or "").partition(mark)[2].strip() for text in captions]

    def _find(self, setting: str) -> list[Path]:
        return find(self._root, self._names[setting], setting)

    def _read(self, path: Path, columns: _Columns) -> pa.Table:
        names, rows = _open(path, self._dialect)
        wanted = _resolve(columns, names, path, ["item"])
        silent = [role for role in (*TEXTS, "categories") if role not in wanted]
        if silent:
            logger.warning("%s: no column for %s; empty for every item", path, ", ".join(silent))
        also = [role for role in ("image", "caption") if role in wanted]
        table = items_table(_records(rows, wanted), path, separator=self._category_separator, also=also)
        if self._dialect.quotes and ending_of(path).startswith(".tsv"):
            _tell_swallowed(table, path)
        return table

    def _captions_of(self, keys: Sequence[str | None]) -> list[str]:
        """Return the caption of each item, "" where there is none."""
        columns = {role: self._columns[role] for role in ("item", "caption")}
        found: dict[str | None, str] = {}
        for path in self._find("captions"):
            names, rows = _open(path, self._dialect)
            table = items_table(_records(rows, _resolve(columns, names, path, list(columns))), path, also=["caption"])
            for key, text in zip(table["item"].to_pylist(), table["caption"].to_pylist(), strict=True):
                if key in found:
                    refuse(path, f"another caption of item '{key}'", text, "at most one caption per item")
                found[key] = text
        foreign = sorted(str(key) for key in found.keys() - set(keys))
        if foreign:
            logger.warning("%d captions belong to no item of the catalogue, e.g. %s", len(foreign), foreign[0])
        return [found.get(key, "") for key in keys]


def _tell_swallowed(items: pa.Table, path: Path) -> None:
    """Warn where a text holds whole lines of the file: an unpaired quote swallows all lines up to the next one."""
    for name in TEXTS:
        texts = items[name]
        whole = pc.and_(pc.match_substring(texts, "\n"), pc.match_substring(texts, "\t"))
        if pc.any(whole).as_py():
            logger.warning(
                "%s: the %s of %d items holds lines of the file, e.g. that of item '%s'; where quotes are text, set "
                "data.quotes=false",
                *(path, name, pc.sum(whole).as_py(), items["item"].filter(whole)[0].as_py()),
            )


def _open(path: Path, dialect: Dialect) -> tuple[list[str], _Rows]:
    """Return the columns of a file of any format, and an iterator of its rows."""
    if ending_of(path) in (".json", ".json.gz"):
        records = object_records(path)
        return list(dict.fromkeys(name for record in records for name in record)), lambda: records
    if format_of(path) == "jsonl":
        # Read twice: a line may lack what another one has.
        return list(dict.fromkeys(name for record in json_lines(path) for name in record)), lambda: json_lines(path)
    [part] = read_rows([path], None, dialect)
    # Python has only 64-bit floats, and would write a 32-bit 9.99 as 9.989999771118164.
    short = {name: part.table[name].cast("string").cast("float64") for name in _floats_of_32_bits(part.table)}
    table = part.table.mutate(**short)

    def rows() -> Iterator[Row]:
        with readable([path]):
            for batch in table.to_pyarrow_batches(chunk_size=10_000):
                yield from batch.to_pylist()

    return list(part.table.columns), rows


def _floats_of_32_bits(table: ibis.Table) -> list[str]:
    return [name for name, kind in table.schema().items() if kind.is_float32()]


def _resolve(columns: _Columns, names: Sequence[str], path: Path, required: Sequence[str]) -> _Columns:
    """Return the columns of each role that the file has; a role left open means the column of that name."""
    needed = {role: chosen or [role] for role, chosen in columns.items() if chosen or role in required}
    require_columns(
        path, "data.item_columns", [(role, name) for role, chosen in needed.items() for name in chosen], names
    )
    return {role: needed.get(role, [role]) for role in columns if role in needed or role in names}


def _records(rows: _Rows, wanted: _Columns) -> Iterator[Row]:
    for row in rows():
        yield {
            role: row.get(names[0]) if len(names) == 1 else tuple(row.get(name) for name in names)
            for role, names in wanted.items()
        }
