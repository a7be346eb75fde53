"""What a newcomer's logs hold that is wrong, or only looks so: times, bad rows, repeats, keys, unknown items."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.doors.door import PREPARE, READ, SHOP, Door, Run, instead, repaired, replaced, settings, walk

EVENTS, ITEMS = SHOP["events.csv"], SHOP["items.csv"]
ROWS = [line.split(",") for line in EVENTS.splitlines()[1:]]
MANY = "user,item,time\n" + "".join(f"u{row // 10},i{row % 8},{1_714_500_000 + row}\n" for row in range(2000))
JSON_LINES = "".join(json.dumps({"user": u, "item": i, "time": int(time)}) + "\n" for u, i, time in ROWS)


def _with_dates(text: str, old: str, new: str) -> str:
    """Return a log's text with its dates written in another way."""

    def date(found: str) -> str:
        moment = datetime.fromtimestamp(int(found), UTC) if old == "s" else datetime.strptime(found, old)
        return moment.strftime(new)

    head, *rows = text.splitlines()
    return "\n".join([head, *(f"{row.rpartition(',')[0]},{date(row.rpartition(',')[2])}" for row in rows)]) + "\n"


def _floats(path: Path) -> None:
    users, items, times = zip(*ROWS, strict=True)
    table = {"user": [float(user[1:]) for user in users], "item": items, "time": [int(time) for time in times]}
    pq.write_table(pa.table(table), path)


def _whole_again(command: str, _: str) -> str:
    table = pq.read_table("e.parquet")
    pq.write_table(table.set_column(0, "user", table["user"].cast("int64")), "e.parquet")
    return command


_EUROPE = "%d.%m.%Y %H:%M:%S"

DOORS = [
    Door(
        "nanoseconds read as seconds",
        PREPARE,
        SHOP | {"events.csv": EVENTS.replace("\n", "000000000\n").replace("time000000000", "time")},
        value="48 of 48 times look like nanoseconds read as seconds",
        rule="times count from 1970, in data.time_unit",
        remedy="set data.time_unit to the unit of the log: s, ms, us or ns",
        follow=lambda command, _: f"{command} data.time_unit=ns",
        outcome=READ,
    ),
    Door(
        "seconds read as milliseconds",
        PREPARE.replace("time_unit=s", "time_unit=ms"),
        SHOP,
        value="48 of 48 times lie before March 1973, as seconds do that are read as milliseconds",
        rule="times count from 1970, in data.time_unit",
        remedy="set data.time_unit to the unit of the log: s, ms, us or ns",
        follow=replaced("time_unit=ms", "time_unit=s"),
        outcome=READ,
    ),
    Door(
        "dates as in Europe",
        PREPARE.replace("time_unit=s", "time_unit=iso"),
        SHOP | {"events.csv": _with_dates(EVENTS, "s", _EUROPE)},
        value="48 of 48 rows hold no time that can be read, e.g. that of user 'u0', item 'i0', time '30.04.2024",
        rule="or iso (2024-05-01T12:00:00)",
        remedy="repair or remove them",
        follow=repaired("events.csv", lambda text: _with_dates(text, _EUROPE, "%Y-%m-%dT%H:%M:%S")),
        outcome=READ,
    ),
    Door(
        "a unit that is none",
        PREPARE.replace("time_unit=s", "time_unit=sec"),
        SHOP,
        code=2,
        value="data.time_unit=sec",
        rule="data.time_unit is a known choice",
        remedy="known: iso, ms, ns, s, us",
        follow=replaced("time_unit=sec", "time_unit=s"),
        outcome=READ,
    ),
    Door(
        "no order",
        PREPARE.replace("data.columns.time=time ", ""),
        SHOP,
        code=2,
        value="the events have no order",
        rule="events are ordered by a time, or else by a rank",
        remedy="set one of data.columns.time=COLUMN and data.columns.rank=COLUMN",
        follow=lambda command, _: f"{command} data.columns.time=time",
        outcome=READ,
    ),
    Door(
        "a way to split is misspelled",
        f"{PREPARE} data.split=leave_one",
        SHOP,
        code=2,
        value="data.split=leave_one",
        rule="data.split is a known choice",
        remedy="did you mean 'leave_one_out'?",
        follow=replaced("leave_one", "leave_one_out"),
        outcome=READ,
    ),
    Door(
        "one event of two thousand in the future",
        PREPARE,
        SHOP | {"events.csv": MANY.replace("1714500007", "4000000000")},
        code=0,
        value="1 bad events of 2000 are left out: 1 of 2000 times lie in the future, e.g. user=u0 item=i7",
        outcome="users 200, events 1,999",
    ),
    Door(
        "three events of two thousand in the future",
        PREPARE,
        SHOP | {"events.csv": MANY.replace("171450000", "400000000", 3)},
        value="3 of 2000 times lie in the future, e.g. user=u0 item=i0 order=4000000000",
        rule="at most data.max_bad_events=0.001 of all events are left out",
        remedy="or lose these 3 events: data.max_bad_events=0.0015",
        follow=settings(r"lose these 3 events: (\S+)"),
        outcome="users 200, events 1,997",
    ),
    Door(
        "an event without an item, where none may be bad",
        f"{PREPARE} data.max_bad_events=0",
        SHOP | {"events.csv": MANY.replace("u0,i3", "u0,", 1)},
        value="1 of 2000 events have no item, e.g. user=u0 item=None",
        rule="every event has a user, an item and an order",
        remedy="or lose these 1 events: data.max_bad_events=0.0005",
        follow=settings(r"lose these 1 events: (\S+)"),
        outcome="users 200, events 1,999",
    ),
    Door(
        "items that the catalogue lacks",
        PREPARE,
        SHOP | {"items.csv": "".join(ITEMS.splitlines(keepends=True)[:6])},
        value="18 of 48 events name 3 items that are not in the catalogue, e.g. i5, i6, i7",
        rule="every event's item is in the catalogue",
        remedy="add the items, or lose these 18 events: data.missing_items=drop",
        follow=settings(r"lose these 18 events: (\S+)"),
        outcome="events 30",
    ),
    Door(
        "a log that is twice",
        f"{PREPARE} data.repeated_events=refuse",
        SHOP | {"events.csv": EVENTS + EVENTS.partition("\n")[2]},
        value="48 repeated events of 96: the same user, item and time",
        rule="a user, an item and a time are in the log once",
        remedy="or data.repeated_events=drop leaves one of each",
        follow=settings(r"or (\S+) leaves one of each"),
        outcome=f"events_repeated 48, {READ}",
    ),
    Door(
        "an item that is twice",
        PREPARE,
        SHOP | {"items.csv": ITEMS + "i3,Another\n"},
        value="1 item keys are in the catalogue more than once, e.g. i3",
        rule="one row per item",
        remedy="remove the duplicates",
        follow=repaired("items.csv", lambda text: text.replace("i3,Another\n", "")),
        outcome=READ,
    ),
    Door(
        "the keys of one user as a number and as a text",
        PREPARE.replace("events.csv", "e.jsonl"),
        SHOP | {"e.jsonl": JSON_LINES.replace('"u0"', "0", 2).replace('"u0"', '"0"')},
        code=0,
        value="column 'user' is text in 46 rows of e.jsonl, no text in 2; read as text",
        outcome=READ,
    ),
    Door(
        "keys that missing values have made fractions",
        PREPARE.replace("events.csv", "e.parquet"),
        SHOP | {"e.parquet": _floats},
        value="the column 'user' of e.parquet holds float64",
        rule="users and items are named by text or integers",
        remedy="write it as one of them",
        follow=_whole_again,
        outcome=READ,
    ),
    Door(
        "keys that are objects",
        PREPARE.replace("events.csv", "e.jsonl"),
        SHOP | {"e.jsonl": JSON_LINES.replace('"user": "u0"', '"user": {"id": "u0"}')},
        value="""4 of 48 rows hold no user that can be read, e.g. that of user '{"id":"u0"}'""",
        rule="a user is named by text or an integer",
        remedy="repair or remove them",
        follow=repaired("e.jsonl", lambda text: text.replace('{"id": "u0"}', '"u0"')),
        outcome=READ,
    ),
    Door(
        "a line of JSON nested two hundred levels deep",
        PREPARE.replace("events.csv", "e.jsonl"),
        SHOP | {"e.jsonl": JSON_LINES.replace("}", f', "x": {"[" * 200}{"]" * 200}}}', 1)},
        value="line 1 of e.jsonl holds values nested 201 levels deep",
        rule="a line of JSON is nested 100 levels deep at most",
        remedy="repair the line, or leave it out",
        follow=repaired("e.jsonl", lambda text: text.replace("[" * 200 + "]" * 200, "[]")),
        outcome=READ,
    ),
    Door(
        "a setting of what is lost is misspelled",
        f"{PREPARE} data.mising_items=drop",
        SHOP,
        code=2,
        value="data.mising_items",
        rule="settings exist",
        remedy="did you mean 'data.missing_items'",
        follow=instead(),
        outcome=READ,
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_mistake_in_rows_is_said_and_what_is_said_helps(door: Door, run: Run) -> None:
    walk(door, run)
