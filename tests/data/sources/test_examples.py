from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialign.data.sources import Examples
from trialign.errors import DataError

Make = Callable[..., Examples]
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
ROWS = [
    {"user": "7", "items": ["a"], "target": ["b"], "split": "train"},
    {"user": "7", "items": ["a", "b"], "target": ["c"], "split": "test"},
    {"user": "8", "items": ["c", "a"], "target": ["a"], "split": "validation"},
]


def _write_inter(folder: Path) -> None:
    for split, row in {"train": "7\ta\tb", "test": "7\ta b\tc", "validation": "8\tc a\ta"}.items():
        (folder / f"{split}.inter").write_text(f"{HEADER}{row}\n")


def _rows(source: Examples, folder: Path) -> list[dict[str, object]]:
    raw = source.load(folder)
    assert raw.examples is not None
    assert raw.events is None
    assert not raw.has_clock
    return sorted(raw.examples.to_pyarrow().to_pylist(), key=lambda row: (row["user"], row["split"] == "test"))


def test_recbole_files_become_examples_of_their_split(examples: Make, tmp_path: Path) -> None:
    _write_inter(tmp_path)
    assert _rows(examples(), tmp_path) == ROWS
    assert set(examples().sources()) == {"items", "train", "validation", "test"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_lists_and_joined_texts_are_the_same_examples(examples: Make, tmp_path: Path, suffix: str) -> None:
    names = {row["split"]: f"{row['split']}.{suffix}" for row in ROWS}
    for row in ROWS:
        path = tmp_path / names[row["split"]]
        record = {"user_id": int(str(row["user"])), "item_id_list": row["items"], "item_id": row["target"][0]}
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist([record]), path)
        elif suffix == "jsonl":
            path.write_text(json.dumps(record))
        else:
            path.write_text(
                f"user_id,item_id_list,item_id\n{row['user']},{'|'.join(row['items'])},{row['target'][0]}\n"
            )
    assert _rows(examples(**names, item_separator="|"), tmp_path) == ROWS


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("[7, 18, 17]", ["7", "18", "17"]),
        ("['7', 'a b']", ["7", "a b"]),
        ('[""7"", ""a b""]', ["7", "a b"]),
        ("[7]", ["7"]),
        ("[]", []),
        ("7 18 17", ["7", "18", "17"]),
        ("[7] [18]", ["[7]", "[18]"]),
        ("[[7], [18]]", ["[[7],", "[18]]"]),
    ],
)
def test_a_cell_that_spells_a_list_is_that_list(examples: Make, tmp_path: Path, cell: str, items: list[str]) -> None:
    """As pandas writes a column of lists; a key in brackets of its own, and a list of lists, stay as they were."""
    names = {}
    for split in ("train", "validation", "test"):
        names[split] = f"{split}.csv"
        (tmp_path / names[split]).write_text(f'user_id,item_id_list,item_id\nu,"{cell}",9\n')
    rows = _rows(examples(**names, item_separator=" "), tmp_path)
    assert [row["items"] for row in rows] == [items] * 3


def test_integer_items_are_the_keys_that_they_write(examples: Make, tmp_path: Path) -> None:
    _write_inter(tmp_path)
    table = pa.table({"user_id": [1], "item_id_list": [[5, 6]], "item_id": [7]})
    pq.write_table(table, tmp_path / "train.parquet")
    found = _rows(examples(train="train.parquet"), tmp_path)[0]
    assert found == {"user": "1", "items": ["5", "6"], "target": ["7"], "split": "train"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("7\t\tb", {"items": [], "target": ["b"]}),
        ("7\ta  b \tb", {"items": ["a", "b"], "target": ["b"]}),
        ("7\ta\t", {"items": ["a"], "target": None}),
    ],
)
def test_gaps_are_handed_on_as_gaps(examples: Make, tmp_path: Path, row: str, expected: dict[str, object]) -> None:
    _write_inter(tmp_path)
    (tmp_path / "train.inter").write_text(f"{HEADER}{row}\n")
    [found] = [found for found in _rows(examples(), tmp_path) if found["split"] == "train"]
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user:token\titem_id_list\titem_id\n", r"train\.inter has no column 'user_id'\n.*data\.columns\.user"),
        (HEADER + "7\ta\n", r"train\.inter cannot be read"),
    ],
)
def test_files_of_another_shape_are_named(examples: Make, tmp_path: Path, content: str, message: str) -> None:
    _write_inter(tmp_path)
    (tmp_path / "train.inter").write_text(content)
    with pytest.raises(DataError, match=message):
        examples().load(tmp_path)


def test_a_list_of_something_else_than_keys_is_refused(examples: Make, tmp_path: Path) -> None:
    _write_inter(tmp_path)
    pq.write_table(pa.table({"user_id": [1], "item_id_list": [[0.5]], "item_id": [7]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"'item_id_list' of .* holds array<float64>"):
        examples(train="train.parquet").load(tmp_path)
