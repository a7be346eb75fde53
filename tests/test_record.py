"""Records are written key by key in the order of their fields, and read back whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trialign.errors import StageError
from trialign.record import INLINE, from_json, read_record, to_json, write_record


@dataclass(frozen=True)
class Inner:
    recall_at_10: float
    low: float | None
    why: str | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    own: Inner = field(metadata=INLINE)
    others: dict[str, Inner]
    examples: list[tuple[int, str]]
    figures: dict[str, float | list[float] | dict[str, float]]
    more: list[Inner] | None = None


RECORD = Outer(
    "a", Inner(0.5, None), {"b": Inner(1, 0.25, why="c")}, [(1, "d")], {"e": 1.5, "f": [1, 2], "g": {"h": 0.0}}
)
TREE = {
    "name": "a",
    "recall@10": 0.5,
    "low": None,
    "others": {"b": {"recall@10": 1, "low": 0.25, "why": "c"}},
    "examples": [[1, "d"]],
    "figures": {"e": 1.5, "f": [1, 2], "g": {"h": 0.0}},
}


def test_a_file_holds_the_fields_in_their_order_and_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, RECORD)
    assert path.read_text() == json.dumps(TREE, indent=2) + "\n"
    assert read_record(Outer, path) == RECORD
    assert to_json(from_json(Outer, TREE | {"more": [TREE["others"]["b"]]}))["more"] == [TREE["others"]["b"]]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tree: tree.pop("low"), "key low is missing"),
        (lambda tree: tree["others"]["b"].pop("recall@10"), "key others.b.recall@10 is missing"),
        (lambda tree: tree.update(lows=1), "unknown key lows"),
        (lambda tree: tree["others"]["b"].update(recall=1), "unknown key others.b.recall"),
        (lambda tree: tree["others"]["b"].update(low="x"), 'others.b.low is "x"'),
        (lambda tree: tree.update(examples={}), "examples is {}"),
        (lambda tree: tree["figures"].update(e="x"), 'figures.e is "x"'),
    ],
)
def test_a_key_too_many_or_too_few_or_of_another_type_is_refused(
    change: Callable[[Any], Any], told: str, tmp_path: Path
) -> None:
    tree = json.loads(json.dumps(TREE))
    change(tree)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(StageError) as refused:
        read_record(Outer, path)
    assert refused.value.value == f"{path} cannot be read: {told}"
    assert "record.json" in refused.value.rule
    assert "rebuild=true" in refused.value.remedy


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_what_is_not_a_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(StageError, match="cannot be read"):
        read_record(Outer, tmp_path / "record.json")
