"""`import trialign`: a dozen names, each with an example that runs; and what the examples do not show."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from trialign.launch import recommend

import trialign
from trialign.config.compose import compose
from trialign.errors import ConfigError, DataError, StageError

SOURCE = Path(trialign.__file__)


@pytest.fixture(scope="module")
def run(finished: Path) -> trialign.Run:
    return trialign.Run(finished)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; start = set(sys.modules); import trialign; dir(trialign); print(*(set(sys.modules) - start))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"trialign"}


def test_every_public_name_is_listed_found_and_known_to_type_checkers() -> None:
    assert dir(trialign) == sorted(["__version__", *trialign.__all__])
    assert len(trialign.__all__) <= 12
    (checked,) = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in ast.walk(checked)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(typed) == sorted(trialign.__all__)
    for name, module in typed.items():
        assert getattr(trialign, name) is getattr(sys.modules[str(module)], name)
    with pytest.raises(AttributeError, match=r"no attribute 'Rnu'; it offers Dataset, .* Run"):
        _ = trialign.Rnu


def examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=False)
    for name in trialign.__all__:
        found = getattr(trialign, name)
        yield from (test for test in finder.find(found, name, globs={}) if test.examples or test.name == name)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_every_name_has_an_example_that_does_what_it_says(
    example: doctest.DocTest, run: trialign.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert example.examples, f"{example.name} has no example"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(run.folder)
    monkeypatch.chdir(tmp_path)
    example.globs = {"trialign": trialign, "run": run, "np": np}
    told: list[str] = []
    doctest.DocTestRunner().run(example, out=told.append)
    assert not told, "".join(told)


def test_every_public_method_says_what_it_does() -> None:
    for name in trialign.__all__:
        for method, found in inspect.getmembers(getattr(trialign, name)):
            if not method.startswith("_") and (inspect.isroutine(found) or isinstance(found, property)):
                assert inspect.getdoc(found), f"{name}.{method}"


def test_the_command_line_recommends_what_the_library_does(
    run: trialign.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    user = run.dataset.evaluation("test").users[0]
    capsys.readouterr()
    words = [f"run={run.folder}", "recommend.k=4", "recommend.format=json"]
    recommend.run(compose("recommend", [*words, f"recommend.user={user}"]))
    told = json.loads(capsys.readouterr().out)
    (found,) = run.recommend_to([user], k=4)
    assert [row["item"] for row in told["items"]] == [item.key for item in found.items]
    assert [row["score"] for row in told["items"]] == list(found.scores)
    assert told["history"] == [item.key for item in found.history]


def test_the_test_histories_give_the_rankings_of_the_evaluation(run: trialign.Run) -> None:
    examples = list(run.dataset.examples("test"))
    found = run.recommend([example.history for example in examples], k=50, exclude_seen=False)
    rows = pq.read_table(run.folder / "evaluate" / "test" / "topk.parquet").to_pylist()
    assert [example.user for example in examples] == [row["user"] for row in rows]
    assert [[item.key for item in one.items] for one in found] == [row["items"] for row in rows]
    ranked, targets = [row["items"] for row in rows], [example.targets for example in examples]
    figures = run.metrics("test")["model"]
    assert trialign.recall(ranked, targets, k=10).mean() == pytest.approx(figures["recall@10"])
    assert trialign.ndcg(ranked, targets, k=10).mean() == pytest.approx(figures["ndcg@10"])


def test_seen_items_are_left_out_or_kept_as_asked(run: trialign.Run) -> None:
    everything = [item.key for item in run.items()]
    (most,) = run.recommend([everything[3:]], k=10)
    assert {item.key for item in most.items} == set(everything[:3])
    assert most.num_filtered == len(everything) - 3
    (kept,) = run.recommend([everything[3:]], k=10, exclude_seen=False)
    assert (len(kept.items), kept.num_filtered) == (10, 0)


def test_only_what_is_in_stock_is_recommended_by_library_and_command_line(
    run: trialign.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = [item.key for item in run.items()][:2]
    (whole,) = run.recommend([history], k=6, num_beams=64)
    scores = dict(zip((item.key for item in whole.items), whole.scores, strict=True))
    allowed, blocked = [*list(scores)[2:5], history[0]], list(scores)[3:4]
    (found,) = run.recommend([history], k=6, num_beams=64, allowed=allowed, blocked=blocked)
    assert [item.key for item in found.items] == [allowed[0], allowed[2]]
    assert found.scores == pytest.approx([scores[item.key] for item in found.items], abs=1e-5)
    assert found.num_in_stock == 3
    (none,) = run.recommend([history], allowed=[])
    assert none.items == ()

    for name, keys in (("allowed", allowed), ("blocked", blocked)):
        (tmp_path / name).write_text("\r\n".join(["", *keys, ""]))
    capsys.readouterr()
    words = [f"run={run.folder}", f"recommend.items=[{','.join(history)}]", "recommend.num_beams=64"]
    files = [f"recommend.{name}={tmp_path / name}" for name in ("allowed", "blocked")]
    assert recommend.run(compose("recommend", [*words, *files])) == [allowed[0], allowed[2]]
    assert "2 of 10 items recommended: the catalogue has 64, of which 3 are in stock and" in capsys.readouterr().out
    (tmp_path / "blocked").write_text(f"{allowed[0]}s\n")
    with pytest.raises(DataError, match=f"no item '{allowed[0]}s' among 64") as refused:
        recommend.run(compose("recommend", [*words, *files]))
    assert f"did you mean {allowed[0]}" in str(refused.value)
    with pytest.raises(DataError, match="no item keys can be read from"):
        recommend.run(compose("recommend", [*words, f"recommend.allowed={tmp_path}"]))


def test_train_examples_are_the_train_histories(run: trialign.Run) -> None:
    dataset = run.dataset
    histories = [tuple(dataset.keys[item] for item in items) for items in dataset.train_histories()]
    assert [example.history + example.targets for example in dataset.examples("train")] == histories


def test_batches_hold_one_row_of_each_lane_per_step(run: trialign.Run) -> None:
    manifest = run.manifest("train")
    lanes, length = manifest.counts["global_batch_size"], manifest.config["stream"]["seq_len"]
    read: list[int] = []
    learned: Counter[int] = Counter()
    for batch in run.batches():
        assert batch.first_of_step is (len(read) % lanes == 0)
        assert batch.tokens_RT.shape == (len(batch.lanes_R), length)
        read += batch.lanes_R.tolist()
        learned.update(batch.tasks_RT[batch.targets_RT].tolist())
        if len(read) == manifest.counts["steps"] * lanes:
            break
    assert read == [*range(lanes)] * manifest.counts["steps"]
    # They are those that the training read: its only log line is of all its steps.
    tasks = json.loads((run.stage("train") / "generator.json").read_text())["tasks"]
    for number, name in enumerate(tasks):
        assert learned[number] / learned.total() == pytest.approx(manifest.counts["tasks"][f"share/{name}"])


def test_a_stage_of_another_run_is_found_where_it_was_taken_from(run: trialign.Run, tmp_path: Path) -> None:
    for verb in ("train", "evaluate"):
        shutil.copytree(run.folder / verb, tmp_path / "mine" / verb)
    mine = trialign.Run(tmp_path / "mine")
    assert mine.stage("assign") == run.folder / "assign"
    history = [run.dataset.keys[:3]]
    assert mine.recommend(history, k=3) == run.recommend(history, k=3)
    other = {"assign": tmp_path / "elsewhere"}
    with pytest.raises(StageError, match=r"elsewhere/assign is not a finished stage"):
        trialign.Run(tmp_path / "mine", from_stage=other).stage("assign")


@pytest.mark.parametrize(
    ("ask", "kind", "told"),
    [
        (lambda run: run.recommend([["nothing"]]), DataError, "no item 'nothing'"),
        (lambda run: run.recommend(["item-0000007"]), DataError, r"in brackets of its own"),
        (lambda run: run.recommend([[]], k=0), ConfigError, "k=0"),
        (lambda run: run.recommend([[]], k=60), ConfigError, "set num_beams=60 or more"),
        (lambda run: run.recommend_to(["nobody"]), DataError, "no user 'nobody'"),
        (lambda run: run.item_of((0,)), DataError, r"no item has the semantic ID \(0,\)"),
        (lambda run: run.item_of((99, 99, 99)), DataError, r"no item has the semantic ID \(99, 99, 99\)"),
        (lambda run: run.manifest("trian"), ConfigError, "did you mean 'train'"),
        (lambda run: run.manifest("rl"), StageError, "run `trialign rl`"),
        (lambda run: run.metrics("validation"), StageError, "run `trialign evaluate`"),
        (lambda run: list(run.dataset.examples("tset")), DataError, "tset"),
        (lambda run: trialign.Run(run.folder.parent), StageError, "holds no finished stage"),
        (lambda run: trialign.recall([["a"]], [], k=1), DataError, "1 ranked lists and 0"),
        (lambda run: trialign.recall([["a", "a"]], [["a"]], k=1), DataError, "names an item twice"),
        (lambda run: trialign.ndcg([["a"]], [[]], k=1), DataError, "no target"),
        (lambda run: trialign.ndcg([["a"]], [["a"]], k=0), DataError, "k=0"),
    ],
)
def test_what_is_asked_wrongly_is_refused(ask: Any, kind: type[trialign.TrialignError], told: str, run: Any) -> None:
    with pytest.raises(kind, match=told):
        ask(run)
