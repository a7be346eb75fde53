"""What a newcomer does wrong with files, folders and columns."""

from __future__ import annotations

import pytest

from tests.doors.door import PREPARE, READ, SHOP, Door, Run, instead, settings, walk

DOORS = [
    Door(
        "a column is misspelled",
        PREPARE.replace("columns.time=time", "columns.time=tme"),
        SHOP,
        value="events.csv has no column 'tme'",
        rule="data.columns.time names a column",
        remedy="did you mean 'time'? known: item, time, user",
        follow=lambda command, remedy: command.replace("tme", "time"),
        outcome=READ,
    ),
    Door(
        "a setting is misspelled",
        PREPARE.replace("data.columns.time", "data.colums.time"),
        SHOP,
        code=2,
        value="data.colums",
        rule="settings exist",
        remedy="did you mean",
        follow=instead(),
        outcome=READ,
    ),
    Door(
        "semicolons in the catalogue alone",
        PREPARE,
        SHOP | {"items.csv": SHOP["items.csv"].replace(",", ";")},
        value="the first line of items.csv names one column, 'item;title'",
        rule="',' stands between values: data.items_delimiter",
        remedy="set 'data.items_delimiter=\";\"'",
        follow=settings(),
        outcome=READ,
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_door(door: Door, run: Run) -> None:
    walk(door, run)
