import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trialign.embed.batches import write_rows
from trialign.errors import DataError

KEYS = [f"k{n}" for n in range(20)]
VECTORS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
ORDER = [n for n in np.random.default_rng(1).permutation(20).tolist() if n != 7]  # item 7 has no evidence


def rows_after(skip, stop=None, asked=None):
    """Yield four rows at a time; `stop` is a kill before that many rows, `asked` notes what was encoded."""
    for start in range(skip, len(ORDER), 4):
        if stop is not None and start >= stop:
            raise KeyboardInterrupt
        items = ORDER[start : start + 4]
        if asked is not None:
            asked += items
        yield items, VECTORS[items]


def write(folder, rows=rows_after, seconds=0.0):
    return write_rows(rows, folder, "text", KEYS, total=len(ORDER), seconds_between_saves=seconds)


def test_rows_land_at_their_items_and_the_result_is_memory_mapped(tmp_path):
    found = write(tmp_path)
    assert isinstance(found.vectors_ND, np.memmap)
    assert found.present_N.tolist() == [n != 7 for n in range(20)]
    assert (found.vectors_ND[found.present_N] == VECTORS[found.present_N]).all()
    assert (found.vectors_ND[7] == 0).all()


@pytest.mark.parametrize("stop", [0, 4, 12])
def test_what_was_encoded_before_an_interruption_is_not_encoded_again(tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, lambda skip: rows_after(skip, stop=stop))
    asked = []
    found = write(tmp_path, lambda skip: rows_after(skip, asked=asked))
    assert asked == ORDER[stop:]
    assert found.vectors_ND.tobytes() == write(tmp_path / "..", rows_after).vectors_ND.tobytes()
    assert found.present_N.sum() == 19


def test_rows_after_the_last_save_are_encoded_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, lambda skip: rows_after(skip, stop=12), seconds=3600.0)
    asked = []
    write(tmp_path, lambda skip: rows_after(skip, asked=asked))
    assert asked == ORDER


def test_a_finished_modality_is_not_encoded_again(tmp_path):
    before = write(tmp_path).vectors_ND.tobytes()
    asked = []
    assert write(tmp_path, lambda skip: rows_after(skip, asked=asked)).vectors_ND.tobytes() == before
    assert asked == []


def test_kill_9_in_the_middle_loses_nothing_that_was_saved(tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_batches
from pathlib import Path

def dying(skip):
    for number, rows in enumerate(test_batches.rows_after(skip)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield rows

test_batches.write(Path({str(tmp_path)!r}), dying)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert json.loads((tmp_path / "text.progress.json").read_text()) == {"rows": 12}
    asked = []
    found = write(tmp_path, lambda skip: rows_after(skip, asked=asked))
    assert asked == ORDER[12:]
    assert (found.vectors_ND[ORDER] == VECTORS[ORDER]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_at_once_by_item(tmp_path, bad):
    def rows(skip):
        for items, vectors_BD in rows_after(skip):
            yield items, np.where(np.array(items)[:, None] == 5, bad, vectors_BD)
            assert 5 not in items, "continued"

    with pytest.raises(DataError, match="the text vector of item 'k5' holds NaN or infinity") as raised:
        write(tmp_path, rows)
    assert "embed/text=none" in raised.value.remedy


def test_nothing_to_encode_is_refused(tmp_path):
    with pytest.raises(DataError, match="no item has what the text modality is made from") as raised:
        write(tmp_path, lambda skip: iter(()))
    assert "embed/text=none" in raised.value.remedy


def test_a_long_encoding_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("trialign.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("trialign.progress.log.propagate", True)
    with caplog.at_level("INFO", logger="trialign"):
        write(tmp_path)
    lines = [record.getMessage().strip() for record in caplog.records]
    assert lines
    assert lines[0].startswith("text vectors: 4 of 19, ")
    assert "a minute" in lines[0]
    assert "left" in lines[0]


def test_room_for_all_rows_is_taken_before_the_first(tmp_path):
    # Through a map, a full disk is a signal that ends the process; so nothing may be left to allocate.
    keys = [str(n) for n in range(100_000)]

    def two_rows(skip):
        yield [0, 1], VECTORS[:2]
        status = (tmp_path / "text.npy").stat()
        assert status.st_blocks * 512 >= status.st_size

    write_rows(two_rows, tmp_path, "text", keys, total=2)


def test_a_save_that_breaks_off_leaves_the_one_before(tmp_path, monkeypatch):
    save, saved = np.save, []

    def break_off(file, array, **options):
        saved.append(array)
        if len(saved) == 3:
            file.write(b"\x93NUMPY")
            raise OSError("no room")
        save(file, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", break_off)
        with pytest.raises(OSError, match="no room"):
            write(tmp_path)
    asked = []
    found = write(tmp_path, lambda skip: rows_after(skip, asked=asked))
    assert asked == ORDER[8:]
    assert (found.vectors_ND[found.present_N] == VECTORS[found.present_N]).all()
