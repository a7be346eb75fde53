"""Recommending to many users: each once, the same bytes whoever writes them, nothing of other settings among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from trialign.launch import recommend

import trialign
from trialign.config.compose import compose
from trialign.config.evaluate import RecommendConfig
from trialign.data.many_users import AllUsers, ManyUsers, UserBlock, UsersOfFile
from trialign.errors import ConfigError, DataError, StageError
from trialign.generate.batch import FOLDER, recommend_to_many
from trialign.manifest import Manifest
from trialign.stage import Stage


@pytest.fixture(scope="module")
def run(finished: Path) -> trialign.Run:
    return trialign.Run(finished)


def make(run: trialign.Run, folder: Path, people: ManyUsers | None = None, *, anew: bool = False, **how: Any) -> Stage:
    wanted = RecommendConfig(users="all", **{"k": 4, **how})
    inputs = {verb: run.stage(verb) for verb in ("prepare", "assign", "train")}
    stage = Stage.open("recommend", folder, {"recommend": {"k": wanted.k}}, inputs=inputs, rebuild=anew)
    people = people or AllUsers(run.dataset, size=16)
    if not stage.finished:
        recommend_to_many(stage, people, run.ranker(), run.dataset.keys, None, wanted, rebuild=anew)
    return stage


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / FOLDER).iterdir())}


def test_every_user_once_as_the_library_recommends(run: trialign.Run, tmp_path: Path) -> None:
    stage = make(run, tmp_path)
    assert list(bytes_in(tmp_path)) == ["block-000000.parquet", "block-000001.parquet", "block-000002.parquet"]
    rows = pq.read_table(tmp_path / FOLDER).to_pylist()
    users, _ = run.dataset.users(0, 40)
    assert [row["user"] for row in rows] == users
    assert len(set(users)) == 40
    for row, found in zip(rows, run.recommend_to(users, k=4), strict=True):
        assert row["items"] == [item.key for item in found.items]
        assert row["scores"] == pytest.approx(list(found.scores), abs=1e-5)
    assert stage.read().counts == {"users": 40, "blocks": 3}
    assert stage.read().inputs["train"]["hash"] == run.manifest("train").hash
    assert make(run, tmp_path).finished


def test_shards_write_the_bytes_of_one_process_and_the_last_one_finishes(run: trialign.Run, tmp_path: Path) -> None:
    make(run, tmp_path / "whole")
    for shard, finished in ((2, False), (0, False), (0, False), (1, True)):
        assert make(run, tmp_path / "parts", shard=shard, shards=3).finished is finished
    assert bytes_in(tmp_path / "parts") == bytes_in(tmp_path / "whole")
    assert Manifest.read(tmp_path / "parts").hash == Manifest.read(tmp_path / "whole").hash


def test_a_killed_run_makes_the_missing_blocks_alone(run: trialign.Run, tmp_path: Path) -> None:
    made: list[int] = []

    class Killed(BaseException):
        pass

    class Counted(AllUsers):
        def blocks(self, wanted: Any) -> Iterator[UserBlock]:
            for block in super().blocks(wanted):
                if made == [0]:
                    made.append(-1)
                    raise Killed
                made.append(block.number)
                yield block

    people = Counted(run.dataset, size=16)
    with pytest.raises(Killed):
        make(run, tmp_path, people)
    (tmp_path / FOLDER / ".block-000001.parquet.here-1").write_bytes(b"half of it")
    make(run, tmp_path, people, shard=2, shards=3)
    make(run, tmp_path, people)
    assert made == [0, -1, 2, 1]
    make(run, tmp_path / "whole")
    assert bytes_in(tmp_path) == bytes_in(tmp_path / "whole")


def test_blocks_of_other_settings_are_refused_by_name(run: trialign.Run, tmp_path: Path) -> None:
    make(run, tmp_path, shard=1, shards=3)
    before = bytes_in(tmp_path)
    with pytest.raises(StageError, match=r"parts of another recommend: config\.recommend\.k 4 -> 5"):
        make(run, tmp_path, k=5)
    assert bytes_in(tmp_path) == before
    make(run, tmp_path, anew=True, k=5)
    assert {len(row["items"]) for row in pq.read_table(tmp_path / FOLDER).to_pylist()} == {5}
    assert Manifest.read(tmp_path).counts["blocks"] == 3


def test_a_file_names_users_or_brings_histories(run: trialign.Run, tmp_path: Path) -> None:
    users, found = run.dataset.users(5, 25)
    users, found = users[::-1] + users[:1], found[::-1] + found[:1]
    table = pa.table({"user": users, "more": range(21)})
    pq.write_table(table, tmp_path / "a.parquet")
    csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        people = UsersOfFile(run.dataset, tmp_path / name, size=8)
        blocks = list(people.blocks(lambda number: number != 1))
        assert [len(block.keys) for block in blocks] == [8, 5]
        assert people.num_users == 21
        for block in blocks:
            here = slice(block.number * 8, block.number * 8 + 8)
            assert block.keys == users[here]
            for user, wanted in zip(block.users, found[here], strict=True):
                assert (user.history.tolist(), user.older.tolist()) == (wanted.history.tolist(), wanted.older.tolist())

    keys = run.dataset.keys
    lists = pa.table({"user": [7, 8, 9], "items": [[keys[3], keys[1]], [], None]})
    pq.write_table(lists, tmp_path / "b.parquet")
    (tmp_path / "b.csv").write_text(f"user,items\n7,{keys[3]} {keys[1]}\n8,\n9,\n")
    for name in ("b.parquet", "b.csv"):
        (block,) = UsersOfFile(run.dataset, tmp_path / name).blocks(lambda _: True)
        assert block.keys == ["7", "8", "9"]
        assert [user.history.tolist() for user in block.users] == [[3, 1], [], []]
        assert [user.seen.tolist() for user in block.users] == [[3, 1], [], []]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user\nnobody\n", "no user 'nobody' in the logs"),
        ("user,items\nanybody,item-000000l\n", "no item 'item-000000l' among 64"),
        ("customer\nnobody\n", "has no column 'user'"),
        ('{"user": null}\n', "row 1 of .*a.jsonl names no user"),
    ],
)
def test_what_a_file_names_wrongly_is_refused(text: str, told: str, run: trialign.Run, tmp_path: Path) -> None:
    path = tmp_path / ("a.jsonl" if text.startswith("{") else "a.csv")
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        list(UsersOfFile(run.dataset, path).blocks(lambda _: True))


def test_the_command_line_says_what_changed(run: trialign.Run, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text(run.dataset.keys[0])
    words = [f"run={run.folder}", "recommend.users=all", f"recommend.output={tmp_path / 'out'}"]
    stock = f"recommend.blocked={tmp_path / 'blocked'}"
    stage = recommend.run(compose("recommend", [*words, stock]))
    assert isinstance(stage, Stage)
    assert stage.built
    rows = pq.read_table(tmp_path / "out" / FOLDER).to_pylist()
    assert not any(run.dataset.keys[0] in row["items"] for row in rows)
    with pytest.raises(StageError, match=r'was finished with other settings: recommend\.blocked ".*" -> null'):
        recommend.run(compose("recommend", words))
    (tmp_path / "blocked").write_text(run.dataset.keys[1])
    with pytest.raises(StageError, match=r'recommend\.blocked ".*" -> "'):
        recommend.run(compose("recommend", [*words, stock]))
    with pytest.raises(DataError, match="is not a file"):
        recommend.run(compose("recommend", [*words[:1], "recommend.users=everybody", words[2]]))
    with pytest.raises(ConfigError, match=r"recommend\.user=a and recommend\.users=all"):
        compose("recommend", [*words, "recommend.user=a"])
    with pytest.raises(ConfigError, match="shards are counted from 0"):
        compose("recommend", [*words, "recommend.shard=1"])
    with pytest.raises(ConfigError, match=r"rebuild=true with recommend\.shard=0"):
        compose("recommend", [*words, "recommend.shard=0", "rebuild=true"])
