import json

import numpy as np
import pytest

from trialign.errors import DataError
from trialign.semid.table import SIDTable, flat_codes
from trialign.types import NO_ITEM


def make_codes(num_items=60, num_levels=3, codebook_size=8, seed=0):
    numbers = np.random.default_rng(seed).permutation(codebook_size**num_levels)[:num_items]
    return np.stack([numbers // codebook_size**level % codebook_size for level in range(num_levels)], axis=1)


def make_table(codes_NL=None, **changes):
    codes_NL = make_codes() if codes_NL is None else codes_NL
    books = np.random.default_rng(1).normal(size=(3, 8, 5)).astype(np.float32)
    given = {"item_keys": [f"é{n}" for n in range(len(codes_NL))], "policy": "reassign", "codebooks_LKD": books}
    return SIDTable(codes_NL, 8, **(given | changes))


@pytest.mark.parametrize("books", ["with", "without"])
def test_reads_back_bit_for_bit(tmp_path, books):
    table = make_table() if books == "with" else make_table(codebooks_LKD=None)
    table.save(tmp_path)
    found = SIDTable.load(tmp_path)
    assert found.codes_NL.dtype == np.int64
    assert found.codes_NL.tobytes() == table.codes_NL.tobytes()
    assert (found.item_keys, found.policy, found.codebook_size) == (table.item_keys, "reassign", 8)
    if books == "with":
        assert found.codebooks_LKD.tobytes() == table.codebooks_LKD.tobytes()
    else:
        assert found.codebooks_LKD is None
    assert found.digest == table.digest


def test_every_code_and_every_key_is_in_the_digest():
    codes_NL = make_codes(num_items=9)
    digests = {make_table(codes_NL).digest}
    free = next(code for code in make_codes(num_items=512) if not (codes_NL == code).all(axis=1).any())
    for item in range(9):
        changed = codes_NL.copy()
        changed[item] = free
        digests.add(make_table(changed).digest)
        keys = [f"é{n}" for n in range(9)]
        keys[item] = "other"
        digests.add(make_table(codes_NL, item_keys=keys).digest)
    assert len(digests) == 1 + 9 + 9


def test_digest_does_not_depend_on_the_integer_type():
    assert make_table(make_codes().astype(np.int16)).digest == make_table().digest


def test_codes_cannot_be_changed_under_the_digest():
    with pytest.raises(ValueError, match="read-only"):
        make_table().codes_NL[0, 0] = 1


def test_tuples_lead_back_to_their_items():
    table = make_table()
    assert (table.item_of(table.codes_NL) == np.arange(60)).all()
    assert table.item_of(table.codes_NL[7]) == 7
    everything = np.stack(np.meshgrid(*[np.arange(-1, 9)] * 3, indexing="ij"), axis=-1)
    found = table.item_of(everything)
    assert (found != NO_ITEM).sum() == 60
    assert sorted(found[found != NO_ITEM]) == list(range(60))


def test_flat_codes_order_like_tuples():
    codes_NL = make_codes()
    by_number = codes_NL[np.argsort(flat_codes(codes_NL, 8))]
    assert by_number.tolist() == sorted(codes_NL.tolist())


def test_two_items_with_one_tuple_are_refused_by_name():
    codes_NL = make_codes()
    codes_NL[5] = codes_NL[20]
    with pytest.raises(DataError, match=r"'é5' and 'é20' share a tuple") as raised:
        make_table(codes_NL)
    assert "trialign assign" in raised.value.remedy


def test_a_code_out_of_range_is_refused_by_item_and_level():
    codes_NL = make_codes()
    codes_NL[3, 1] = 8
    with pytest.raises(DataError, match="'é3' has code 8 at level 2"):
        make_table(codes_NL)


def test_keys_of_another_catalogue_are_refused():
    with pytest.raises(DataError, match=r"shape \(60, 3\) for 1 item keys"):
        make_table(item_keys=["a"])


def test_tuples_beyond_63_bits_are_refused():
    with pytest.raises(DataError, match="num_levels = 8 with codebook_size = 256"):
        flat_codes(np.zeros((1, 8), int), 256)


def test_a_changed_file_is_refused(tmp_path):
    table = make_table()
    table.save(tmp_path)
    np.save(tmp_path / "codes.npy", table.codes_NL[::-1])
    with pytest.raises(DataError, match="its header says") as raised:
        SIDTable.load(tmp_path)
    assert "read back exactly" in raised.value.rule


def test_a_missing_or_newer_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no SID table can be read"):
        SIDTable.load(tmp_path)
    make_table().save(tmp_path)
    header = json.loads((tmp_path / "sids.json").read_text())
    (tmp_path / "sids.json").write_text(json.dumps(header | {"format": 2}))
    with pytest.raises(DataError, match="format 2, this version reads 1"):
        SIDTable.load(tmp_path)
