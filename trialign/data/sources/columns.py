"""Convert columns of outside tables to keys, ranks and times, and count the values that do not fit.

A conversion gives null where a value does not fit, so that one pass over the rows counts all faults at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import ibis
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.expr.datatypes import Timestamp

from trialign.data.source import Unreadable
from trialign.data.sources.endings import ending_of
from trialign.data.sources.formats import Part, readable
from trialign.errors import DataError, listing, suggest

logger = logging.getLogger(__name__)

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_LARGEST = 9e18


def require_columns(path: Path, group: str, wanted: Sequence[tuple[str, str]], known: Sequence[str]) -> None:
    """Refuse a file that lacks columns; one that has none of them may lack the line that names its columns.

    Args:
        path: the file.
        group: of the settings that name columns: `data.columns` or `data.item_columns`.
        wanted: setting and column.
        known: the columns of the file.

    Raises:
        DataError: it lacks some, all of which are named.
    """
    lacking = [(setting, name) for setting, name in wanted if name not in known]
    if not lacking:
        return
    names = ", ".join(f"'{name}'" for _, name in lacking)
    value = f"{path} has no column {names}"
    remedy = suggest(lacking[0][1], known) if len(lacking) == 1 else listing(known)
    if len(lacking) == len(wanted) and ending_of(path).startswith((".csv", ".tsv")):
        value += f"; its first line is {', '.join(known)[:80]}"
        remedy += f"; if that line is a row already, write the line of names before it, with {names}"
    settings = ", ".join(f"{group}.{setting}" for setting, _ in lacking)
    rule = f"{settings} names a column of the file" if len(lacking) == 1 else f"{settings} name columns of the file"
    raise DataError(value, rule=rule, remedy=remedy)


def text_of(column: ibis.Column) -> ibis.ir.StringValue:
    """Return a column as text: the content of JSON strings, the source text of other JSON values."""
    written = column.cast("string")
    return ibis.coalesce(column.str, written) if column.type().is_json() else written


def as_key(column: ibis.Column, paths: Sequence[Path]) -> ibis.ir.StringValue:
    """Return keys as text; integers are written out; null where a JSON value is neither.

    Raises:
        DataError: the column holds neither.
    """
    kind = column.type()
    if kind.is_json():
        written = column.cast("string")
        return ibis.coalesce(column.str, written.re_search("^-?[0-9]+$").ifelse(written, None))
    # Databases write whole numbers as decimals without a fraction.
    whole = kind.is_integer() or (kind.is_decimal() and kind.scale == 0)
    if not (kind.is_string() or whole or kind.is_uuid()):
        raise DataError(
            f"the column '{column.get_name()}' of {paths[0]} holds {kind}",
            rule="users and items are named by text or integers",
            remedy="write it as one of them (missing values turn integers into floats)",
        )
    return column.cast("string")


def as_keys(column: ibis.Column, separator: str | None, paths: Sequence[Path]) -> ibis.ir.ArrayValue:
    """Return lists of keys: a list as it is, a text cut at `separator`, or with None a text as the only key.

    A text that is a list as Python or JSON writes it, such as `[7, 'a']`, is that list.

    Raises:
        DataError: the column holds none of them.
    """
    kind = column.type()
    if kind.is_array():
        if not (kind.value_type.is_string() or kind.value_type.is_integer()):
            as_key(column, paths)
        return column.cast("array<string>")
    key = as_key(column, paths)
    if separator is None:
        return key.isnull().ifelse(ibis.null("array<string>"), ibis.array([key]))
    text = key.fill_null("").strip()
    inside = text.re_replace(r"^\[|\]$", "")
    literal = text.startswith("[") & text.endswith("]") & ~(inside.contains("[") | inside.contains("]"))
    # A list as Python or JSON writes it, `[7, 'a']`: brackets and quotes are not part of a key.
    listed = inside.split(",").map(lambda part: part.strip().re_replace(r"""^(?:"(.*)"|'(.*)')$""", r"\1\2"))
    parts = literal.ifelse(listed, text.split(separator).map(lambda part: part.strip()))
    return parts.filter(lambda part: part != "")


def as_whole(column: ibis.Column, paths: Sequence[Path]) -> ibis.ir.IntegerValue:
    """Return a column as integers, null where a value is not a whole number.

    Raises:
        DataError: the column can hold none.
    """
    number = _as_number(column, paths)
    fits = (number == number.floor()) & (number.abs() < _LARGEST)
    return fits.ifelse(number, None).cast("int64")


def as_time(column: ibis.Column, unit: str, paths: Sequence[Path]) -> tuple[ibis.ir.IntegerValue, ibis.ir.IntegerValue]:
    """Return whole seconds since 1970, and the nanoseconds beyond them; null where a value is not a time in `unit`.

    Args:
        column: numbers or text; a column of timestamps or dates tells its own unit. A time without a zone is UTC.
        unit: `data.time_unit`.
        paths: where the column is from, for errors.

    Raises:
        DataError: the column can hold no time.
    """
    column = _unwrapped(column)
    kind = column.type()
    if kind.is_timestamp() and kind.scale == 9:
        return _whole_and_fine(epoch_ns(column))
    if kind.is_timestamp() or kind.is_date() or (kind.is_string() and unit == "iso"):
        moment = column.try_cast("timestamp('UTC')").cast("timestamp")
        fine = moment.microsecond().cast("int64") * 1000
        if kind.is_string():
            # A timestamp ends at the microsecond; a text may have more digits.
            fine += column.re_extract(r"\.\d{6}(\d{1,3})", 1).rpad(3, "0").cast("int64")
        # DuckDB reads `infinity` as a timestamp; its seconds are null.
        return moment.truncate("s").epoch_seconds().cast("int64"), fine
    if unit == "iso":
        raise DataError(
            f"the column '{column.get_name()}' of {paths[0]} holds {kind}",
            rule="data.time_unit=iso reads text such as 2024-05-01T12:00:00",
            remedy="name the unit of the numbers: data.time_unit=s, ms, us or ns",
        )
    number = _as_number(column, paths)
    if unit == "ns":
        # As integers: today's nanoseconds are more than a float holds exactly.
        return _whole_and_fine(column.try_cast("int64"))
    number = number / _PER_SECOND[unit]
    whole = (number.abs() < _LARGEST).ifelse(number.floor(), None)
    return whole.cast("int64"), ((number - whole) * 1_000_000).round().cast("int64") * 1000


@ibis.udf.scalar.builtin
def epoch_ns(moment: Timestamp(scale=9)) -> int:  # type: ignore[valid-type, empty-body]
    """Return nanoseconds since 1970; the name is DuckDB's."""


def _whole_and_fine(nanos: ibis.ir.IntegerValue) -> tuple[ibis.ir.IntegerValue, ibis.ir.IntegerValue]:
    fine = (nanos % 10**9 + 10**9) % 10**9
    return ((nanos - fine) / 10**9).cast("int64"), fine


def tell_lost_nanoseconds(part: Part, name: str) -> None:
    """Warn how many times of a column lose their nanoseconds: with a time zone, DuckDB reads only microseconds."""
    kind = part.table[name].type()
    if not (kind.is_timestamp() and kind.timezone):
        return
    lost = 0
    with readable(part.paths):
        for path in part.paths:
            if pq.read_schema(path).field(name).type.unit == "ns":
                batches = pq.ParquetFile(path).iter_batches(columns=[name])
                lost += sum(pc.sum(pc.not_equal(pc.nanosecond(batch[name]), 0)).as_py() or 0 for batch in batches)
    if lost:
        logger.warning(
            "%d times of column '%s' of %s lie between two microseconds, and are read as the one before; a column in "
            "UTC without a zone, or of whole numbers with data.time_unit=ns, is read to the nanosecond",
            *(lost, name, part.paths[0]),
        )


def find_unreadable(
    rows: ibis.Table, paths: Sequence[Path], rules: Mapping[str, str], also: ibis.Scalar
) -> tuple[dict[str, Unreadable], int]:
    """Count the values that did not fit, in one pass over the rows.

    Args:
        rows: for each name a column that is null where a value did not fit, and `raw_<name>` as it was found; other
            columns go into the example.
        paths: where the rows are from, for errors.
        rules: what the values of each name should have been.
        also: what else to count in the same pass.

    Returns:
        The names that have such values, and the count of `also`.

    Raises:
        DataError: a file is damaged somewhere in the middle.
    """
    faults = {name: rows[name].isnull() & rows[f"raw_{name}"].notnull() for name in rules}
    unreadable = {}
    with readable(paths):
        counts = {name: fault.sum() for name, fault in faults.items()}
        # DuckDB reads only columns that a query uses, and finds invalid text only there.
        counts |= {f"raw_{name}": rows[f"raw_{name}"].count() for name in ("user", "item")}
        [found] = rows.aggregate(also=also, **counts).to_pyarrow().to_pylist()
        for name, rule in rules.items():
            if found[name]:
                shown = [column for column in rows.columns if column.startswith("raw_")]
                [row] = rows.filter(faults[name]).select(shown).limit(1).to_pyarrow().to_pylist()
                example = ", ".join(f"{column.removeprefix('raw_')} {value!r}" for column, value in row.items())
                unreadable[name] = Unreadable(found[name], f"no {name} that can be read, e.g. that of {example}", rule)
    return unreadable, int(found["also"] or 0)


def tell_mixed(parts: Sequence[Part], names: Sequence[str]) -> None:
    """Warn where a column has different types in different files or JSON lines; all its keys are read as text."""
    for name in names:
        kinds = {str(part.table[name].type()): part.paths[0] for part in parts}
        told = [f"{kind} in {path.name}" for kind, path in kinds.items()] if len(kinds) > 1 else []
        told += [found for part in parts for found in _mixed_values(part, name)]
        if told:
            logger.warning("column '%s' is %s; read as text, so that 1 and '1' are the same", name, ", ".join(told))


def _mixed_values(part: Part, name: str) -> list[str]:
    """Return the warning for a column of JSON that holds text in some rows only."""
    column = part.table[name]
    if not column.type().is_json():
        return []
    with readable(part.paths):
        [found] = part.table.aggregate(values=column.count(), texts=column.str.count()).to_pyarrow().to_pylist()
    texts, others = found["texts"], found["values"] - found["texts"]
    return [f"text in {texts} rows of {part.paths[0].name}, no text in {others}"] if texts and others else []


def _unwrapped(column: ibis.Column) -> ibis.Column:
    return text_of(column).name(column.get_name()) if column.type().is_json() else column


def _as_number(column: ibis.Column, paths: Sequence[Path]) -> ibis.ir.FloatingValue:
    column = _unwrapped(column)
    kind = column.type()
    if not (kind.is_string() or kind.is_numeric()) or kind.is_boolean():
        raise DataError(
            f"the column '{column.get_name()}' of {paths[0]} holds {kind}",
            rule="a time or a rank is a number",
            remedy="name another column",
        )
    return column.try_cast("float64")
