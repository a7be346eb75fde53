import json
import logging

import numpy as np
import pytest

from trialign.errors import DataError
from trialign.semid.policy import ItemCodes, make_table
from trialign.semid.released import read_index
from trialign.semid.table import SIDTable

INDEX = {"b": ["<a_3>", "<b_0>"], "a": ["<a_1>", "<b_12>"]}


def write(folder, index):
    path = folder / "Beauty.index.json"
    path.write_text(index if isinstance(index, str) else json.dumps(index))
    return path


def test_codes_stand_in_the_order_of_the_catalogue(tmp_path):
    found = read_index(write(tmp_path, INDEX), ["a", "b"])
    assert found.codes_NL.tolist() == [[1, 12], [3, 0]]
    assert found.codebook_size == 13


def test_an_imported_table_reads_back_bit_for_bit(tmp_path):
    table, assigned = make_table(read_index(write(tmp_path, INDEX), ["a", "b"]), ["a", "b"], "reassign", 0.8)
    table.save(tmp_path / "assign")
    found = SIDTable.load(tmp_path / "assign")
    assert (found.digest, found.codebooks_LKD, assigned.items_moved) == (table.digest, None, 0)
    assert found.codes_NL.tolist() == [[1, 12], [3, 0]]


def test_items_the_catalogue_lacks_are_left_out_and_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_index(write(tmp_path, INDEX), ["b"]).codes_NL.tolist() == [[3, 0]]
    assert "1 of its 2 items are not in the catalogue" in caplog.text


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"a": INDEX["a"]}, "no codes for 1 of 2 items, the first is 'b'"),
        (INDEX | {"b": ["<a_3>"]}, "gives item 'a' 2 codes and item 'b' another number"),
        (INDEX | {"b": []}, "item 'b' has"),
        (INDEX | {"b": ["<a_3>", "<c_0>"]}, "item 'b' has"),
        (INDEX | {"b": ["<a_-3>", "<b_0>"]}, "item 'b' has"),
        (INDEX | {"b": [3, 0]}, "cannot be read as an index"),
        ([["<a_3>"]], "cannot be read as an index"),
        ("{", "cannot be read as an index"),
        ("[" * 100_000, "cannot be read as an index: .*nested too deeply"),
    ],
)
def test_what_is_no_index_of_this_catalogue_is_refused(tmp_path, index, told):
    with pytest.raises(DataError, match=told):
        read_index(write(tmp_path, index), ["a", "b"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read as an index"):
        read_index(tmp_path / "nothing.json", ["a"])


def test_shared_tuples_need_the_suffix():
    coded = ItemCodes(np.array([[1, 2], [1, 2], [0, 0]]), 4)
    with pytest.raises(DataError, match="2 of 3 items share 1 tuples") as raised:
        make_table(coded, ["a", "b", "c"], "reassign", 0.8)
    assert "assign.policy=suffix" in raised.value.remedy
    table, _ = make_table(coded, ["a", "b", "c"], "suffix", 0.8)
    assert table.codes_NL.tolist() == [[1, 2, 0], [1, 2, 1], [0, 0, 0]]


@pytest.mark.parametrize("name", ["amazon2014_beauty", "amazon2018_scientific"])
def test_every_released_set_is_read(shared_data, name):
    for path in sorted((shared_data(name) / "sid").glob("*.index.json")):
        keys = list(json.loads(path.read_text()))
        found = read_index(path, keys)
        assert found.codes_NL.shape == (len(keys), 4)
        assert found.codebook_size <= 256
