"""The commands of docs/data.md, run as they are: one log in many formats is one dataset."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trialign.launch import prepare

from trialign.config.compose import compose
from trialign.data.dataset import Dataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
ORDERS = [
    ("ann", "mug-1", "2024-05-01T09:30:00"),
    ("ann", "lamp-2", "2024-05-03T18:05:00"),
    ("ann", "rug-3", "2024-06-11T12:00:00"),
    ("ann", "mug-4", "2024-07-02T08:15:00"),
    ("bob", "lamp-2", "2024-05-02T20:40:00"),
    ("bob", "rug-3", "2024-05-02T20:41:00"),
    ("bob", "mug-1", "2024-05-09T07:00:00"),
]
PRODUCTS = {"mug-1": "Blue mug", "mug-4": "Tall mug", "lamp-2": "Desk lamp", "rug-3": "Wool rug"}


def commands() -> dict[str, list[str]]:
    """Return the overrides of each command of the section, by the name of its run."""
    section = PAGE.read_text().partition("## One command per format")[2].partition("\n## ")[0]
    found = re.findall(r"^    trialign prepare ((?:.*\\\n)*.*)$", section, re.MULTILINE)
    words = [shlex.split(command.replace("\\\n", " ")) for command in found]
    return {next(w for w in line if w.startswith("run=")).removeprefix("run=runs/"): line for line in words}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the log in every format and go to the folder above."""
    folder = tmp_path / "shop"
    folder.mkdir()
    times = [datetime.fromisoformat(time).replace(tzinfo=UTC) for _, _, time in ORDERS]
    seconds = [int(time.timestamp()) for time in times]
    users, items = [user for user, _, _ in ORDERS], [item for _, item, _ in ORDERS]
    pq.write_table(pa.table({"user": users, "item": items, "bought_at": times}), folder / "orders.parquet")
    pq.write_table(pa.table({"item": list(PRODUCTS), "title": list(PRODUCTS.values())}), folder / "products.parquet")

    def write(name: str, lines: list[str]) -> None:
        (folder / name).write_text("".join(f"{line}\n" for line in lines))

    write("orders.csv", ["customer,sku,bought_at", *map(",".join, ORDERS)])
    write("products.csv", ["sku,name", *map(",".join, PRODUCTS.items())])
    rows = list(zip(users, items, seconds, strict=True))
    write("orders.jsonl", [json.dumps({"user": u, "item": i, "ms": s * 1000}) for u, i, s in rows])
    write("products.jsonl", [json.dumps({"item": item, "title": title}) for item, title in PRODUCTS.items()])
    write("shop.inter", ["user_id:token\titem_id:token\ttimestamp:float", *(f"{u}\t{i}\t{s}" for u, i, s in rows)])
    write("shop.item", ["item_id:token\ttitle:token_seq", *map("\t".join, PRODUCTS.items())])
    lists = {user: [item for other, item in zip(users, items, strict=True) if other == user] for user in users}
    write("shop.inter.json", [json.dumps(lists)])
    write("shop.item.json", [json.dumps({item: {"title": title} for item, title in PRODUCTS.items()})])
    header = "user_id,item_id_list,item_id"
    write("train.csv", [header, "ann,mug-1,lamp-2", "bob,lamp-2,rug-3"])
    write("valid.csv", [header, "ann,mug-1 lamp-2,rug-3"])
    write("test.csv", [header, "ann,mug-1 lamp-2 rug-3,mug-4", "bob,lamp-2 rug-3,mug-1"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seen(folder: Path) -> tuple[object, ...]:
    """Return what a dataset holds, in keys."""
    dataset = Dataset(folder)
    test = dataset.evaluation("test")

    def keys(lists: object) -> list[list[str]]:
        return [[dataset.keys[item] for item in items] for items in lists]  # type: ignore[attr-defined]

    titles = dict(zip(dataset.keys, dataset.items["title"].to_pylist(), strict=True))
    return keys(dataset.train_histories()), test.users, keys(test.histories), keys(test.targets), titles


def test_one_log_in_any_format_is_one_dataset(shop: Path) -> None:
    found = commands()
    assert list(found) == ["parquet", "csv", "jsonl", "recbole", "pair", "examples"]
    made = {name: seen(prepare.run(compose("prepare", line)).folder) for name, line in found.items()}
    _, users, histories, targets, titles = made["parquet"]
    told = dict(zip(users, zip(histories, targets, strict=True), strict=True))  # type: ignore[call-overload]
    assert told == {
        "ann": (["mug-1", "lamp-2", "rug-3"], ["mug-4"]),
        "bob": (["lamp-2", "rug-3"], ["mug-1"]),
    }
    assert titles == PRODUCTS
    assert all(made[name] == made["parquet"] for name in ("csv", "jsonl", "recbole", "pair"))
    assert made["examples"][1:] == made["parquet"][1:]
