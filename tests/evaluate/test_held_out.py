"""The whole pipeline on logs whose test targets were replaced at random: nothing before the test may notice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from trialign.launch import evaluate, recommend, report
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.config.verbs import REQUIRED
from trialign.errors import ConfigError, DataError, StageError
from trialign.evaluate.baselines import BASELINES
from trialign.evaluate.comparison import Group, paired_to
from trialign.evaluate.runs import read_run
from trialign.manifest import MACHINE, Manifest

NUM_ITEMS = 40
TINY = [
    *("data=interjson", "data.interactions=inter.json", "data.items=item.json", "data.block_records=16"),
    *("embed/image=none", "embed/collaborative=ppmi", "embed.text.dim=8", "embed.collaborative.dim=8"),
    *("quantize.codebook_size=8", "train.steps=6", "train.backbone.hidden_size=32", "train.backbone.num_heads=2"),
    *("train.backbone.intermediate_size=64", "train.backbone.vocab_size=300", "stream.global_batch_size=4"),
    *("runtime.micro_batch_size=2", "runtime.accelerator=cpu", "runtime.progress=false", "runtime.log_every=2"),
    *("evaluate.bootstrap_samples=100", "evaluate.unconstrained_users=8"),
    *("baselines.sasrec.epochs=1", "baselines.sasrec.dim=16", "baselines.sasrec.text_dim=8"),
]
NO_SASREC = "evaluate.baselines=[popularity,item_knn]"


def write(folder: Path, logs: dict[str, list[int]]) -> list[str]:
    """Write logs and a catalogue; return the overrides of a run over them."""
    folder.mkdir()
    items = {str(i): {"title": f"color {i % 5} size {i // 5}", "categories": f"c{i % 3}"} for i in range(NUM_ITEMS)}
    (folder / "inter.json").write_text(json.dumps(logs))
    (folder / "item.json").write_text(json.dumps(items))
    return [f"data.root={folder}", f"run={folder / 'run'}", *TINY]


def build(overrides: list[str], last: str = "evaluate") -> None:
    for verb in REQUIRED[: REQUIRED.index(last) + 1]:
        script(verb)(compose("pipeline", overrides))


def logs() -> dict[str, list[int]]:
    draws = np.random.default_rng(0)
    return {f"user{user}": draws.integers(0, NUM_ITEMS, 4 + user % 9).tolist() for user in range(40)}


def test_replaced_test_targets_change_nothing_before_the_test(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    replaced = {user: [*items[:-1], int(draws.integers(0, NUM_ITEMS))] for user, items in logs().items()}
    files = {}
    for name, found in {"one": logs(), "other": replaced}.items():
        overrides = [*write(tmp_path / name, found), "evaluate.split=validation"]
        build(overrides)
        run = tmp_path / name / "run"
        stages = {verb: run / verb for verb in ("baselines", "embed", "quantize", "assign", "train")}
        stages["validation"] = run / "evaluate" / "validation"
        files[name] = {
            f"{verb}/{file}": found["sha256"]
            for verb, folder in stages.items()
            for file, found in Manifest.read(folder).files.items()
            if not file.endswith(MACHINE)
        }
    assert files["one"].keys() == files["other"].keys()
    assert {"assign/codes.npy", "train/generator.safetensors", "validation/metrics.json"} <= files["one"].keys()
    # quality.json may describe the finished IDs on any events: nothing reads it.
    changed = {file for file in files["one"] if files["one"][file] != files["other"][file]}
    assert changed <= {"assign/quality.json"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    overrides = [*write(tmp_path_factory.mktemp("held") / "data", logs()), NO_SASREC]
    build(overrides)
    return overrides


def test_the_page_shows_users_and_the_record_is_whole(finished: list[str]) -> None:
    folder = compose("evaluate", finished).run / "evaluate" / "test"
    page = (folder / "report.html").read_text()
    record = json.loads((folder / "metrics.json").read_text())
    assert page.count('class="card"') == 6
    assert f"{record['model']['recall@50']:.4f}" in page
    assert f"{record['other_protocol']['model']['recall@50']:.4f}" in page
    assert record["other_protocol"]["exclude_seen"] is True


def test_nothing_that_was_chosen_before_the_window_is_ranked_or_recommended_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = np.random.default_rng(2)
    chosen = {f"user{user}": draws.permutation(NUM_ITEMS)[:30].tolist() for user in range(40)}
    overrides = [*write(tmp_path / "long", chosen), "data.max_history=8", "evaluate.exclude_seen=true"]
    build(overrides)
    run = tmp_path / "long" / "run"
    everything = set(map(str, range(NUM_ITEMS)))
    for row in pq.read_table(run / "evaluate" / "test" / "topk.parquet").to_pylist():
        # Eleven are left: the ten that the user never chose, and the target.
        assert set(row["items"]) == everything - set(map(str, chosen[row["user"]][:-1]))
    # The protocol refuses a ranking that holds a filtered item, and a place that is owed and empty is invalid.
    record = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert {name: row["invalid_rate"] for name, row in record["baselines"].items()} == dict.fromkeys(BASELINES, 0.0)
    for user in ("user3", "user38"):
        told = recommend.run(compose("recommend", [f"run={run}", *overrides, f"recommend.user={user}"]))
        assert set(told) == everything - set(map(str, chosen[user]))
    capsys.readouterr()
    for asked, num_found in ((sorted(everything), 0), (sorted(everything)[3:], 3)):
        words = [f"run={run}", *overrides, f"recommend.items=[{','.join(asked)}]"]
        assert len(recommend.run(compose("recommend", words))) == num_found
        told = f"{num_found} of 10 items recommended: the catalogue has 40, of which {len(asked)} were chosen before"
        assert told in " ".join(capsys.readouterr().out.split())
        recommend.run(compose("recommend", [*words, "recommend.format=json"]))
        assert json.loads(capsys.readouterr().out)["fewer"].startswith(told)
    recommend.run(compose("recommend", [*words, "recommend.format=json", "recommend.k=3"]))
    assert json.loads(capsys.readouterr().out)["fewer"] is None


def test_a_sample_of_users_is_the_first_of_all_and_is_said(finished: list[str], tmp_path: Path) -> None:
    run = compose("evaluate", finished).run
    variant = [setting for setting in finished if not setting.startswith("run=")]
    shared = [f"from.{verb}={run}" for verb in REQUIRED if verb != "evaluate"]
    sampled = [*variant, *shared, "evaluate.users=13"]
    for name in ("one", "two"):
        evaluate.run(compose("evaluate", [*sampled, f"run={tmp_path / name}"]))
    folder = tmp_path / "one" / "evaluate" / "test"
    record = json.loads((folder / "metrics.json").read_text())
    assert (record["num_users"], record["num_users_in_split"]) == (13, 40)
    for page in ("table.txt", "report.html"):
        assert "test split, a sample of 13 users of 40" in (folder / page).read_text()
    whole = pq.read_table(run / "evaluate" / "test" / "topk.parquet")
    assert pq.read_table(folder / "topk.parquet").equals(whole.slice(0, 13))
    compared = [read_run(tmp_path / name, name, "test") for name in ("one", "two")]
    groups = [Group(run.name, [run], []) for run in compared]
    paired = paired_to(groups[0], groups[1], num_samples=100, seed=0)
    assert isinstance(paired, dict)
    assert paired["ndcg@10"].difference == 0
    everybody = Group("all", [read_run(run, "all", "test")], [])
    assert paired_to(everybody, groups[0], num_samples=100, seed=0) == "not paired: measured on other users or targets"


def test_a_sample_larger_than_the_split_is_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    overrides = write(tmp_path / "few", logs())
    with pytest.raises(
        DataError, match=r"evaluate\.users=41, but the test split holds 40 users\n.*\n.*evaluate\.users=40"
    ):
        build([*overrides, "evaluate.users=41"])
    assert not (tmp_path / "few" / "run" / "embed").exists()
    with pytest.raises(ConfigError, match=r"evaluate\.users=0"):
        compose("evaluate", [*overrides, "evaluate.users=0"])


def test_report_reads_runs_from_their_directories_alone(finished: list[str], tmp_path: Path) -> None:
    run = compose("evaluate", finished).run
    shared = [f"from.{verb}={run}" for verb in REQUIRED if verb not in ("train", "evaluate")]
    variant = [setting for setting in finished if not setting.startswith("run=")]
    for name, change in {"longer": "train.steps=7", "seed": "seed=1"}.items():
        overrides = [*variant, f"run={tmp_path / name}", change, *shared]
        for verb in ("train", "evaluate"):
            script(verb)(compose("pipeline", overrides))
    (tmp_path / "half" / "prepare").mkdir(parents=True)
    written = report.run(compose("report", [f"report.runs=[{run},{tmp_path}/*]", f"run={tmp_path / 'told'}"]))
    page = (written / "report.html").read_text()
    assert "(2 runs)" in page
    assert "train.steps" in page
    assert "quantize.codebook_size" not in page
    assert "not evaluated on test; finished: nothing" in page
    assert len((written / "runs.csv").read_text().splitlines()) == 4


def test_report_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for runs, kind, told in (
        ("", ConfigError, "report.runs is empty"),
        (f"{tmp_path}/nowhere", ConfigError, "is no directory"),
        (f"{tmp_path}/empty", StageError, "finished: nothing"),
    ):
        with pytest.raises(kind, match=told):
            report.run(compose("report", [f"report.runs=[{runs}]", f"run={tmp_path / 'told'}"]))
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("overrides", "kind", "told"),
    [
        (["evaluate.baselines=[popularity,popularity]"], ConfigError, "named twice"),
        (["evaluate.baselines=[popularty]"], ConfigError, "did you mean 'popularity'"),
        (["evaluate.baselines=[sasrec]"], StageError, "holds popularity, item_knn, not sasrec"),
        (["from.train=nowhere"], StageError, "trialign train"),
    ],
)
def test_evaluate_refuses(finished: list[str], overrides: list[str], kind: type[Exception], told: str) -> None:
    fitted = f"from.baselines={compose('evaluate', finished).run}"
    with pytest.raises(kind, match=told):
        evaluate.run(compose("evaluate", [*finished, fitted, "rebuild=true", *overrides]))


def test_baselines_of_another_dataset_are_refused(finished: list[str], tmp_path: Path) -> None:
    other = write(tmp_path / "other", {user: items[::-1] for user, items in logs().items()})
    build([*other, NO_SASREC], last="baselines")
    with pytest.raises(StageError, match="two different 'prepare' stages"):
        evaluate.run(compose("evaluate", [*finished, f"from.baselines={tmp_path / 'other' / 'run'}", "rebuild=true"]))


def test_a_split_without_users_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    overrides = write(tmp_path / "short", {"a": [1, 2], "b": [3, 4]})
    with pytest.raises(DataError, match=r"the validation split holds no user"):
        build([*overrides, "evaluate.split=validation"])
    assert not (tmp_path / "short" / "run" / "embed").exists()


def test_one_user_and_a_catalogue_smaller_than_the_places_are_measured(tmp_path: Path) -> None:
    overrides = write(tmp_path / "one", {"only": [1, 2, 3, 4, 5, 6]})
    # Four train events hold no pairs that PPMI vectors of a width could be made of.
    overrides = [setting for setting in overrides if "collaborative" not in setting]
    build([*overrides, NO_SASREC, "stream.global_batch_size=1", "runtime.micro_batch_size=1"])
    record = json.loads((tmp_path / "one" / "run" / "evaluate" / "metrics.json").read_text())
    assert record["num_users"] == 1
    assert record["invalid_rate"] == record["other_protocol"]["invalid_rate"] == 0
    assert record["paired"]["popularity"]["ndcg@10"]["low"] is None
    assert record["model"]["recall@50"] == 1.0, "forty items: all of them are ranked"
