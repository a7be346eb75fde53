"""What a newcomer does wrong with files, folders, columns and delimiters."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, feather

from tests.doors.door import (
    PREPARE,
    READ,
    SHOP,
    Door,
    Run,
    instead,
    repaired,
    replaced,
    settings,
    typed_in_a_shell,
    walk,
)

EVENTS, ITEMS = SHOP["events.csv"], SHOP["items.csv"]


def events() -> pa.Table:
    """Return the log as a table."""
    return csv.read_csv(pa.BufferReader(EVENTS.encode()))


def _parquet(path: Path) -> None:
    pq.write_table(events(), path)


DOORS = [
    Door(
        "a column is misspelled",
        PREPARE.replace("columns.time=time", "columns.time=tme"),
        SHOP,
        value="events.csv has no column 'tme'",
        rule="data.columns.time names a column",
        remedy="did you mean 'time'? known: item, time, user",
        follow=replaced("time=tme", "time=time"),
        outcome=READ,
    ),
    Door(
        "a column that has another name",
        PREPARE,
        SHOP | {"items.csv": ITEMS.replace("item,title", "sku,title")},
        value="items.csv has no column 'item'",
        rule="data.item_columns.item names a column of the file",
        remedy="known: sku, title",
        follow=lambda command, _: f"{command} data.item_columns.item=sku",
        outcome=READ,
    ),
    Door(
        "a log without a line of names",
        PREPARE,
        SHOP | {"events.csv": EVENTS.removeprefix("user,item,time\n")},
        value="events.csv has no column 'user', 'item', 'time'; its first line is u0, i0, 1714500000",
        rule="data.columns.user, data.columns.item, data.columns.time name columns of the file",
        remedy="write the line of names before it, with 'user', 'item', 'time'",
        follow=repaired("events.csv", "user,item,time\n{}".format),
        outcome=READ,
    ),
    Door(
        "a catalogue without a line of names",
        PREPARE,
        SHOP | {"items.csv": ITEMS.removeprefix("item,title\n")},
        value="items.csv has no column 'item'; its first line is i0, Title 0",
        rule="data.item_columns.item names a column of the file",
        remedy="write the line of names before it, with 'item'",
        follow=repaired("items.csv", "item,title\n{}".format),
        outcome=READ,
    ),
    Door(
        "a setting of columns is misspelled",
        PREPARE.replace("data.columns.time", "data.colums.time"),
        SHOP,
        code=2,
        value="data.colums",
        rule="settings exist",
        remedy="did you mean 'data.columns",
        follow=instead(),
        outcome=READ,
    ),
    Door(
        "a source of data is misspelled",
        PREPARE.replace("data=tables", "data=tabels"),
        SHOP,
        code=2,
        value="Could not find 'data/tabels'",
        rule="a choice is one of the options of its group",
        remedy="did you mean 'tables'? known: beauty, examples",
        follow=replaced("data=tabels", "data=tables"),
        outcome=READ,
    ),
    Door(
        "no catalogue",
        PREPARE.replace("data.items=items.csv ", ""),
        SHOP,
        code=2,
        value="Missing mandatory value: data.items",
        rule="a setting without a default must be given",
        remedy="add data.items=VALUE",
        follow=lambda command, _: f"{command} data.items=items.csv",
        outcome=READ,
    ),
    Door(
        "a catalogue that is not there",
        PREPARE.replace("items.csv", "catalogue.csv"),
        SHOP,
        value="catalogue.csv does not exist",
        rule="data.items is a path or a pattern below data.root",
        remedy="set data.root (or TRIALIGN_DATA) and data.items",
        follow=replaced("catalogue.csv", "items.csv"),
        outcome=READ,
    ),
    Door(
        "a root that is not there",
        PREPARE.replace("data.root=.", "data.root=shop"),
        SHOP,
        value="data.root=shop is no folder",
        rule="data.root names the folder that holds the files",
        remedy="set data.root=DIR, or the environment variable TRIALIGN_DATA",
        follow=replaced("data.root=shop", "data.root=."),
        outcome=READ,
    ),
    Door(
        "a root that is an address",
        PREPARE.replace("data.root=.", "data.root=s3://bucket/shop"),
        SHOP,
        code=2,
        value="data.root=s3://bucket/shop is an address, not a path",
        rule="lie in folders that this machine sees",
        remedy="mount s3 as a folder, or copy it here, and name that path by data.root",
        follow=replaced("s3://bucket/shop", "."),
        outcome=READ,
    ),
    Door(
        "an empty log",
        PREPARE,
        SHOP | {"events.csv": ""},
        value="events.csv begins with nothing",
        rule="the first line names the columns, each once",
        remedy="add or fix that line",
        follow=repaired("events.csv", lambda text: "user,item,time\n"),
        after=1,
        outcome="the log holds no event",
    ),
    Door(
        "a log that is a header alone",
        PREPARE,
        SHOP | {"events.csv": "user,item,time\n", "all.csv": EVENTS},
        value="the log holds no event",
        rule="at least one event",
        remedy="name the right file of interactions",
        follow=replaced("events.csv", "all.csv"),
        outcome=READ,
    ),
    Door(
        "semicolons in the catalogue alone",
        PREPARE,
        SHOP | {"items.csv": ITEMS.replace(",", ";")},
        value="the first line of items.csv names one column, 'item;title'",
        rule="',' is between values: data.items_delimiter",
        remedy="set 'data.items_delimiter=\";\"'",
        follow=settings(),
        outcome=READ,
    ),
    Door(
        "semicolons quoted for the shell alone",
        f"{PREPARE} 'data.delimiter=;' data.items_delimiter=,",
        SHOP | {"events.csv": EVENTS.replace(",", ";")},
        code=2,
        value="'data.delimiter=;' cannot be read",
        rule="a value with ; [ ] or quotes is in quotes of its own",
        remedy="write it as 'key=\"value\"', the outer quotes for the shell",
        follow=replaced(
            "data.delimiter=;' data.items_delimiter=,", 'data.delimiter=";"\' \'data.items_delimiter=","\''
        ),
        outcome=READ,
    ),
    Door(
        "tabs in a file called .csv",
        PREPARE,
        SHOP | {"events.csv": EVENTS.replace(",", "\t")},
        value=r"the first line of events.csv names one column, 'user\titem\ttime'",
        rule="',' is between values: data.delimiter",
        remedy="give the file the ending .tsv",
        follow=lambda command, _: command.replace(Path("events.csv").rename("events.tsv").stem + ".csv", "events.tsv"),
        outcome=READ,
    ),
    Door(
        "Windows' letters in the catalogue",
        PREPARE,
        SHOP | {"items.csv": ITEMS.replace("Title 3", "Café crème").encode("cp1252")},
        value="items.csv cannot be read: 'utf-8' codec can't decode byte 0xe9",
        rule="a file is whole, UTF-8",
        remedy="write it as UTF-8; from the letters of Windows: iconv -f CP1252 -t UTF-8 < items.csv > new-items.csv",
        follow=typed_in_a_shell("items.csv", "new-items.csv"),
        outcome=READ,
    ),
    Door(
        "a byte order mark, and lines that end as in Windows",
        PREPARE,
        {name: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() for name, text in SHOP.items()},
        code=0,
        value=READ,
    ),
    Door(
        "lines that end in two ways",
        PREPARE,
        SHOP | {"events.csv": EVENTS.replace("\n", "\r\n", 10)},
        value="line 11 of events.csv ends in LF, those before it in CR LF",
        rule="all lines of a file end alike",
        remedy=r"write it anew, and name that: tr -d '\r' < events.csv > new-events.csv",
        follow=typed_in_a_shell("events.csv", "new-events.csv"),
        outcome=READ,
    ),
    Door(
        "a log of Feather",
        PREPARE.replace("events.csv", "e.feather"),
        SHOP | {"e.feather": lambda path: feather.write_feather(events(), path)},
        value="e.feather ends in .feather, which is not read",
        rule="a file's ending tells its format: .csv,",
        remedy="convert it, and name e.parquet: ",
        follow=typed_in_a_shell("e.feather", "e.parquet"),
        outcome=READ,
    ),
    Door(
        "a folder of several kinds",
        PREPARE.replace("events.csv", "log"),
        SHOP | {"log/a.parquet": _parquet, "log/README.md": "Our log"},
        value="log holds files of several kinds: 1 .md, 1 .parquet",
        rule="data.events names files, or a folder that holds files of one kind",
        remedy="say which: ",
        follow=settings(r"('[^']*parquet\"')"),
        outcome=READ,
    ),
    Door(
        "a folder of partitions",
        PREPARE.replace("events.csv", "log"),
        SHOP | {"log/month=2024-05/a.parquet": _parquet},
        code=0,
        value=READ,
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_mistake_with_files_is_said_and_what_is_said_helps(door: Door, run: Run) -> None:
    walk(door, run)
