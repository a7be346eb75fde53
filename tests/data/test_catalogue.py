from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from trialign.data.catalogue import index_catalogue
from trialign.errors import DataError


def _items(keys: list[str | None], **columns: list[Any]) -> pa.Table:
    texts = {name: columns.get(name, [""] * len(keys)) for name in ("title", "description", "brand")}
    categories = columns.get("categories", [[]] * len(keys))
    return pa.table(
        {
            "item": pa.array(keys, pa.string()),
            **{name: pa.array(values, pa.string()) for name, values in texts.items()},
            "categories": pa.array(categories, pa.list_(pa.string())),
        }
    )


def test_numeric_keys_are_ordered_as_numbers_and_others_as_text() -> None:
    for keys in (["10", "9", "007", "7"], ["7", "007", "9", "10"]):
        assert index_catalogue(_items(keys))["key"].to_pylist() == ["007", "7", "9", "10"]
    assert index_catalogue(_items(["10", "9", "b", "a1"]))["key"].to_pylist() == ["10", "9", "a1", "b"]


def test_words_stay_with_their_item() -> None:
    catalogue = index_catalogue(_items(["2", "1"], title=["two", "one"], categories=[["b", None], None]))
    assert catalogue.select(["item", "key", "title", "categories"]).to_pylist() == [
        {"item": 0, "key": "1", "title": "one", "categories": []},
        {"item": 1, "key": "2", "title": "two", "categories": ["b"]},
    ]


def test_what_an_item_lacks_is_empty() -> None:
    catalogue = index_catalogue(_items(["1"], title=[None], description=[None], brand=[None]))
    assert catalogue.to_pylist() == [
        {"item": 0, "key": "1", "title": "", "description": "", "brand": "", "categories": []}
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "catalogue is empty"),
        (["a", None, ""], "2 items have no key"),
        (["a", ""], "1 items have no key"),
        (["a", "b", "a", "c", "c"], "2 item keys are .* more than once, e.g. a, c"),
    ],
)
def test_catalogues_that_cannot_be_indexed_are_refused(keys: list[str | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        index_catalogue(_items(keys))
