"""The thin whole on a tiny storefront: every stage, run twice, changed, shared, and met with bad input."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from trialign.launch import evaluate, pipeline, recommend, serve
from trialign.launch.cli import script
from trialign.launch.doctor import TINY

from trialign.config.compose import compose
from trialign.config.config import Config
from trialign.config.stages import planned
from trialign.config.verbs import REQUIRED
from trialign.errors import ConfigError, DataError, StageError, TrialignError
from trialign.files import sha256_of
from trialign.lock import HeldError, locked
from trialign.manifest import MANIFEST, Manifest
from trialign.pipeline import run_pipeline
from trialign.progress import BEAT, Heartbeat, read_progress
from trialign.semid.table import SIDTable
from trialign.stage import Stage

FILES_PAGE = Path(__file__).resolve().parents[2] / "docs" / "files.md"


def run_all(folder: Path, *overrides: str) -> dict[str, str]:
    done = pipeline.run(compose("pipeline", [f"run={folder}", *TINY, *overrides]))
    return {stage.verb: stage.outcome for stage in done}


@pytest.fixture(scope="module")
def beats() -> dict[str, list[Heartbeat]]:
    """What the stages of `finished` beat, by verb."""
    return {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, beats: dict[str, list[Heartbeat]]) -> Path:
    """A finished run; tests that change anything work on a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        moved = replace(path, target)
        if target.name == BEAT and (beat := read_progress(target.parent)) is not None:
            beats.setdefault(beat.stage, []).append(beat)
        return moved

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", noted)
        assert set(run_all(folder, "runtime.beat_seconds=0").values()) == {"built"}
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def hashes(folder: Path) -> dict[str, str]:
    return {verb: Manifest.read(folder / verb).hash for verb in REQUIRED}


def test_every_stage_leaves_a_manifest_and_the_metrics_are_complete(finished: Path) -> None:
    assert set(hashes(finished)) == set(REQUIRED)
    metrics = json.loads((finished / "evaluate" / "metrics.json").read_text())
    assert metrics == json.loads((finished / "evaluate" / "test" / "metrics.json").read_text())
    wanted = {f"{name}@{k}" for name in ("recall", "ndcg") for k in (1, 5, 10, 50)}
    assert set(metrics["baselines"]) == {"popularity", "item_to_item", "item_knn", "sasrec"}
    for row in (metrics["model"], *metrics["baselines"].values(), metrics["oracle"]):
        assert wanted <= set(row)
    assert metrics["invalid_rate"] == 0
    assert metrics["num_users"] == 60
    for name in metrics["baselines"]:
        entry = metrics["paired"][name]["ndcg@10"]
        difference = metrics["model"]["ndcg@10"] - metrics["baselines"][name]["ndcg@10"]
        assert entry["difference"] == pytest.approx(difference)
        assert entry["low"] <= entry["difference"] <= entry["high"]


def test_every_file_that_a_manifest_lists_is_there_as_it_says(finished: Path) -> None:
    folders = [path.parent for path in finished.rglob(MANIFEST)]
    assert {folder.relative_to(finished).as_posix() for folder in folders} == {*REQUIRED, "evaluate/test"}
    for folder in folders:
        for name, record in Manifest.read(folder).files.items():
            assert sha256_of(folder / name) == record["sha256"], folder / name


def test_the_docs_name_every_file_of_every_stage(finished: Path) -> None:
    sections = re.split(r"^## ", FILES_PAGE.read_text(), flags=re.MULTILINE)[1:]
    told = {section.split("\n")[0]: _quoted_files(section) for section in sections}
    (everywhere,) = (quoted for title, quoted in told.items() if title.startswith(MANIFEST))
    for verb in REQUIRED:
        for path in (finished / verb).rglob("*"):
            name = path.relative_to(finished / verb).as_posix()
            assert path.is_dir() or any(re.fullmatch(one, name) for one in everywhere + told[f"{verb}/"]), path


def _quoted_files(section: str) -> list[str]:
    """Return patterns of the files that a section quotes: `<split>` is any name, digits are any digits."""
    quoted = re.findall(r"`([^`\s]+)(?: \.\.\.)?`", section)
    plain = [re.sub(r"<\w+>", "[^/]+", re.sub(r"\d+", r"\\d+", word.replace(".", r"\."))) for word in quoted]
    folders = "|".join(word for word in plain if word.endswith("/"))
    return [MANIFEST, *(f"(?:{folders})?{word}" for word in plain if "." in word)]


def test_every_stage_beats_forwards(finished: Path, beats: dict[str, list[Heartbeat]]) -> None:
    assert set(beats) == {*REQUIRED, "pipeline"}
    for verb, found in beats.items():
        places, advances = [beat.place for beat in found], [(beat.number, beat.advances) for beat in found]
        assert places == sorted(places), verb
        assert all(one < other for one, other in itertools.pairwise(advances)), verb
        assert {beat.attempt for beat in found} == {found[0].attempt}
    assert {beat.what for beat in beats["evaluate"]} >= {
        f"users ranked by {name}, seen items kept" for name in ("model", "popularity", "item_to_item", "sasrec")
    }
    assert max(beat.done for beat in beats["train"] if beat.what == "steps") == 6
    assert not list(finished.rglob(BEAT)), "a finished stage has no beat"


def test_oracle_is_not_beaten_beyond_chance(finished: Path) -> None:
    metrics = json.loads((finished / "evaluate" / "metrics.json").read_text())
    assert metrics["model"]["ndcg@50"] < metrics["oracle"]["ndcg@50"] + 0.1


def test_second_run_skips_everything(run: Path) -> None:
    before = hashes(run)
    assert set(run_all(run).values()) == {"skipped"}
    assert hashes(run) == before


def test_same_command_elsewhere_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run_all(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(finished)


def test_changed_seed_is_refused_by_the_first_stage_it_concerns(run: Path) -> None:
    with pytest.raises(StageError, match=r"baselines.*seed 0 -> 1"):
        run_all(run, "seed=1")


def test_rebuild_makes_again_what_changed_and_what_depends_on_it(run: Path) -> None:
    outcomes = run_all(run, "train.steps=5", "rebuild=true")
    assert outcomes == {verb: "built" if verb in ("train", "evaluate") else "skipped" for verb in REQUIRED}


def test_settings_that_cannot_change_the_numbers_rebuild_nothing(run: Path) -> None:
    assert set(run_all(run, "runtime.micro_batch_size=4", "evaluate.batch_size=7", "stream.workers=2").values()) == {
        "skipped"
    }


def test_arms_share_stages_by_from(run: Path, tmp_path: Path) -> None:
    shared = [f"from.{verb}={run}" for verb in ("prepare", "enrich", "embed", "quantize", "assign", "baselines")]
    outcomes = run_all(tmp_path / "variant", "train.steps=5", *shared)
    assert [verb for verb, outcome in outcomes.items() if outcome == "built"] == ["train", "evaluate"]
    assert not (tmp_path / "variant" / "prepare").exists()
    inputs = Manifest.read(tmp_path / "variant" / "train").inputs
    assert inputs["prepare"]["hash"] == Manifest.read(run / "prepare").hash


def test_what_arms_share_is_made_once_by_the_first_of_them(run: Path, tmp_path: Path) -> None:
    common, sharing = tmp_path / "common", ("prepare", "enrich", "baselines")
    shared = [f"from.{verb}={common}" for verb in sharing]
    assert set(run_all(tmp_path / "first", *shared).values()) == {"built"}
    assert sorted(path.name for path in common.iterdir()) == sorted(sharing)
    assert Manifest.read(tmp_path / "first" / "train").hash == hashes(run)["train"]
    outcomes = run_all(tmp_path / "second", "train.steps=5", *shared)
    assert {verb for verb, outcome in outcomes.items() if outcome == "taken"} == set(sharing)


@pytest.mark.parametrize("left", ["finished", "nothing"])
def test_an_arm_waits_for_another_that_makes_what_they_share(run: Path, tmp_path: Path, left: str) -> None:
    """The other holds the lock; it ends while this one waits, and leaves the stage or, killed, nothing."""
    common = tmp_path / "common" / "prepare"
    common.mkdir(parents=True)
    config = compose("pipeline", [f"run={tmp_path / 'variant'}", *TINY, f"from.prepare={common.parent}"])
    other, lines = contextlib.ExitStack(), []

    def announce(line: str) -> None:
        lines.append(line)
        if "waiting for" in line:
            if left == "finished":
                shutil.copytree(run / "prepare", common, dirs_exist_ok=True)
            other.close()

    other.enter_context(locked(common))
    with other:
        scripts = {verb: script(verb) for verb in planned(config)} | {"evaluate": evaluate.build}
        done = {stage.verb: stage for stage in run_pipeline(config, scripts, announce)}
    assert "] prepare, into" in lines[0]
    assert f"waiting for pid {os.getpid()} on" in lines[1]
    assert done["prepare"].outcome == ("taken" if left == "finished" else "built")
    assert done["prepare"].manifest.hash == hashes(run)["prepare"]
    assert done["train"].outcome == "built"


def test_of_two_arms_that_begin_at_once_one_makes_what_they_share(run: Path, tmp_path: Path) -> None:
    config = compose("pipeline", [f"run={tmp_path / 'variant'}", *TINY, f"from.prepare={tmp_path / 'common'}"])
    calls = []

    def beaten(given: Config) -> Stage:
        """Finds the folder held although nobody held it a moment ago."""
        calls.append(given.run)
        shutil.copytree(run / "prepare", tmp_path / "common" / "prepare")
        raise HeldError("held", rule="one writer", remedy="wait")

    scripts = {verb: script(verb) for verb in planned(config)} | {"evaluate": evaluate.build, "prepare": beaten}
    done = {stage.verb: stage.outcome for stage in run_pipeline(config, scripts, lambda _: None)}
    assert calls == [tmp_path / "common"]
    assert done["prepare"] == "taken"


def test_captions_and_interests_reach_the_generator_and_the_page(run: Path, tmp_path: Path) -> None:
    shared = [f"from.{verb}={run}" for verb in ("prepare", "embed", "quantize", "assign", "baselines")]
    made = ["enrich/clip=storefront", "enrich.clip.num_pairs=64", "enrich.clip.num_epochs=1"]
    made += ["enrich/captions=builtin", "enrich/interests=builtin", "enrich.interests.num_pairs=64"]
    tasks = ["train/tasks=trialigngr8", "train.tasks.item_to_caption=1", "evaluate.grounding.items=9"]
    run_all(tmp_path / "variant", *shared, *made, *tasks)
    counts = Manifest.read(tmp_path / "variant" / "train").counts
    num_captions = Manifest.read(tmp_path / "variant" / "enrich").counts["captions"]["found"]
    assert counts["left_out"]["item_to_caption"] == 96 - num_captions > 0
    assert sum(share for name, share in counts["tasks"].items() if name.startswith("share/")) == pytest.approx(1)
    found = json.loads((tmp_path / "variant" / "evaluate" / "metrics.json").read_text())["grounding"]
    assert set(found["finds"]) == {"title_to_item", "caption_to_item", "interests_to_item"}
    assert set(found["writes"]) == {"item_to_title", "item_to_caption"}
    for row in found["finds"].values():
        assert row["recall@1"] <= row["recall@10"] <= 1
        assert row["ceiling@1"] <= row["ceiling@10"] <= 1
    page = (tmp_path / "variant" / "evaluate" / "test" / "report.html").read_text()
    assert "by the prompt of caption_to_item" in page
    assert f"{found['writes']['item_to_caption']['token_f1']:.3f}" in page
    assert "enrich" in Manifest.read(tmp_path / "variant" / "evaluate" / "test").inputs
    assert "enrich" not in Manifest.read(run / "train").inputs


def test_what_a_stage_asks_for_is_made_before_it(run: Path, tmp_path: Path) -> None:
    """Interests below a chance are dropped before embedding, and the policy that is evaluated is learned."""
    made = ["enrich/interests=builtin", "enrich.interests.num_pairs=64", "data.junk_share=0.2"]
    judged = ["reward.epochs=1", "reward.tiny.num_layers=1", "embed.min_probability=0.6"]
    learned = [
        "train.rl_holdout=0.3",
        "evaluate.generator=rl",
        "rl.steps=2",
        "rl.prompts_per_step=4",
        "rl.validation.every=2",
    ]
    learned += ["rl.rewards.quality_item=0.5", "embed.evidence=[title,interests]"]
    outcomes = run_all(tmp_path / "variant", *made, *judged, *learned)
    order = list(outcomes)
    assert order.index("reward") < order.index("embed")
    assert order.index("train") < order.index("rl") < order.index("evaluate")
    counts = Manifest.read(tmp_path / "variant" / "embed").counts
    probabilities = pq.read_table(tmp_path / "variant" / "reward" / "quality.parquet")["probabilities"].to_pylist()
    assert counts["interests_left_out"] == sum(one < 0.6 for found in probabilities for one in found) > 0
    inputs = Manifest.read(tmp_path / "variant" / "evaluate" / "test").inputs
    assert "rl" in inputs
    assert "train" not in inputs
    assert "reward" in Manifest.read(tmp_path / "variant" / "rl").inputs


def test_stages_of_another_catalogue_are_refused(run: Path, tmp_path: Path) -> None:
    other = compose("prepare", [f"run={tmp_path / 'other'}", *TINY, "data.seed=1"])
    script("prepare")(other)
    mixed = compose("train", [f"run={run}", *TINY, f"from.prepare={tmp_path / 'other'}", "rebuild=true"])
    with pytest.raises(StageError, match="two different 'prepare' stages") as caught:
        script("train")(mixed)
    assert f"prepare is {tmp_path / 'other' / 'prepare'} (" in caught.value.value
    assert f"{run / 'assign'} was made from " in caught.value.value
    assert "assign.extend=OLD" in caught.value.remedy


def test_stage_killed_half_way_is_made_again(run: Path) -> None:
    (run / "assign" / MANIFEST).unlink()
    with pytest.raises(StageError, match="trialign assign"):
        script("train")(compose("train", [f"run={run}", *TINY, "train.steps=5", "rebuild=true"]))
    assert run_all(run)["assign"] == "built"


def test_validation_stands_beside_test_and_the_latest_is_copied(run: Path) -> None:
    evaluate.run(compose("evaluate", [f"run={run}", *TINY, "evaluate.split=validation"]))
    assert (run / "evaluate" / "test" / "metrics.json").exists()
    assert json.loads((run / "evaluate" / "metrics.json").read_text())["split"] == "validation"


def test_seen_items_are_struck_for_everyone(finished: Path, run: Path) -> None:
    evaluate.run(compose("evaluate", [f"run={run}", *TINY, "evaluate.exclude_seen=true", "rebuild=true"]))
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    before = json.loads((finished / "evaluate" / "metrics.json").read_text())
    assert metrics["exclude_seen"] is True
    for one, other in ((metrics, before["other_protocol"]), (before, metrics["other_protocol"])):
        assert all(one[key] == other[key] for key in other), "which rule is stated changes no figure"
    assert "filtered" in (run / "evaluate" / "table.txt").read_text()


def test_recommend_for_a_user_and_for_typed_items(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = pq.read_table(finished / "prepare" / "items.parquet")["key"].to_pylist()
    typed = recommend.run(compose("recommend", [f"run={finished}", f"recommend.items=[{items[3]},{items[5]}]"]))
    assert len(typed) == 10
    assert not {items[3], items[5]} & set(typed), "what was chosen is not recommended again"
    user = pq.read_table(finished / "prepare" / "raw" / "events.parquet")["user"][0].as_py()
    known = recommend.run(compose("recommend", [f"run={finished}", f"recommend.user={user}", "recommend.k=3"]))
    assert len(known) == 3
    assert set(typed) | set(known) <= set(items)
    assert user in capsys.readouterr().out


def test_recommend_answers_a_program_with_json_alone_on_stdout(finished: Path) -> None:
    arguments = ["recommend.items=[item-0000003,item-0000005]", "recommend.k=4", "recommend.format=json"]
    command = [sys.executable, "-m", "trialign.launch.cli", "recommend", f"run={finished}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["user"] is None
    assert found["history"] == ["item-0000003", "item-0000005"]
    assert [row["rank"] for row in found["items"]] == [1, 2, 3, 4]
    scores = [row["score"] for row in found["items"]]
    assert scores == sorted(scores, reverse=True)
    titles = pq.read_table(finished / "prepare" / "items.parquet").to_pylist()
    assert {row["item"]: row["title"] for row in found["items"]}.items() <= {
        r["key"]: r["title"] for r in titles
    }.items()


@pytest.mark.parametrize(
    ("overrides", "kind", "told"),
    [
        (["recommend.user=nobody"], DataError, "no user 'nobody'"),
        (["recommend.items=[nothing]"], DataError, "no item 'nothing'"),
        ([], ConfigError, "recommend.users are not set"),
        (["recommend.user=x", "recommend.items=[y]"], ConfigError, "either a user"),
        (["recommend.user="], DataError, "no user ''"),
        (["recommend.user=[x,y]"], ConfigError, "one user at a time"),
        (["recommend.items=x"], ConfigError, "set 'recommend.items=[x]'"),
        (["recommend.format=jsn"], ConfigError, "did you mean 'json'"),
        (["recommend.user=x", "recommend.k=60"], ConfigError, "recommend.num_beams=60"),
    ],
)
def test_recommend_refuses(finished: Path, overrides: list[str], kind: type[TrialignError], told: str) -> None:
    with pytest.raises(kind) as caught:
        recommend.run(compose("recommend", [f"run={finished}", *overrides]))
    assert told in str(caught.value)


def interjson(folder: Path, interactions: object, items: object, *overrides: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in (("inter.json", interactions), ("item.json", items)):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    own = ["data=interjson", "data.interactions=inter.json", "data.items=item.json", f"data.root={folder}"]
    tiny = [setting for setting in TINY if not setting.startswith("data.num_")]
    script("prepare")(compose("prepare", [f"run={folder / 'run'}", *own, *tiny, *overrides]))


ITEM = {"title": "kettle", "description": "", "brand": "", "categories": ""}


@pytest.mark.parametrize(
    ("interactions", "items", "told"),
    [
        ({"u": [1]}, {}, "catalogue"),
        ({}, {"1": ITEM}, "no event"),
        ({"u": [1, 2]}, {"1": ITEM}, "not in the catalogue"),
        ('{"u": [1]}', '{"1": {"title": "a"}, "1": {"title": "b"}}', "1"),
        ({"u": [1]}, "not json", "JSON"),
        ({"u": 1}, {"1": ITEM}, "u"),
    ],
    ids=["empty catalogue", "empty log", "unknown item", "duplicate id", "no JSON", "no list"],
)
def test_logs_that_cannot_be_used_are_refused_and_nothing_is_finished(
    tmp_path: Path, interactions: object, items: object, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        interjson(tmp_path / "raw", interactions, items)
    assert told in str(caught.value)
    assert not (tmp_path / "raw" / "run" / "prepare" / MANIFEST).exists()


def test_unknown_items_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    interjson(tmp_path / "raw", {"u": [1, 2, 1]}, {"1": ITEM}, "data.missing_items=drop")
    assert Manifest.read(tmp_path / "raw" / "run" / "prepare").counts["events_dropped"] == 1


def test_one_user_and_one_item_make_a_dataset(tmp_path: Path) -> None:
    interjson(tmp_path / "raw", {"u": [1, 1, 1]}, {"1": ITEM})
    counts = Manifest.read(tmp_path / "raw" / "run" / "prepare").counts
    assert (counts["users"], counts["items"], counts["events"]) == (1, 1, 3)


def test_the_walkthrough_finds_every_step_on_disk(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script_path = Path(__file__).resolve().parents[2] / "docs" / "walkthrough.py"
    runpy.run_path(str(script_path))["main"](finished)
    page = capsys.readouterr().out
    assert [line.split()[1] for line in page.splitlines() if line.startswith("## ")] == [f"{n}." for n in range(1, 8)]
    target = page.split("the item `")[1].split("`")[0]
    assert page.count(target) >= 4, "the same item is met from the raw record to the decision"


def test_semantic_ids_of_a_file_need_no_quantizer_and_keep_their_meaning(finished: Path, tmp_path: Path) -> None:
    """Codes written as LC-Rec writes them come back as the same table, and a later run extends it without a change."""
    table = SIDTable.load(finished / "assign")
    tokens = {
        key: [f"<{'abc'[level]}_{code}>" for level, code in enumerate(codes)]
        for key, codes in zip(table.item_keys, table.codes_NL.tolist(), strict=True)
    }
    (tmp_path / "shop.index.json").write_text(json.dumps(tokens))
    given = [f"run={tmp_path / 'imported'}", f"from.prepare={finished}", f"assign.index={tmp_path / 'shop.index.json'}"]
    stage = script("assign")(compose("assign", [*TINY, *given]))
    imported = SIDTable.load(stage.folder)
    assert set(Manifest.read(stage.folder).inputs) == {"prepare"}
    assert (imported.codes_NL == table.codes_NL).all()
    assert "<title>Semantic IDs" in (stage.folder / "quality.html").read_text()

    shared = [f"from.{verb}={finished}" for verb in ("prepare", "embed", "quantize")]
    later = [f"run={tmp_path / 'later'}", *shared, f"assign.extend={tmp_path / 'imported'}"]
    stage = script("assign")(compose("assign", [*TINY, *later]))
    assert SIDTable.load(stage.folder).codes_NL.tobytes() == table.codes_NL.tobytes()
    assert Manifest.read(stage.folder).counts["extended"] == {"kept": 96, "new": 0, "left": 0}


def test_a_suffix_makes_every_semantic_id_one_code_longer(finished: Path, tmp_path: Path) -> None:
    shared = [f"from.{verb}={finished}" for verb in ("prepare", "embed", "quantize")]
    stage = script("assign")(compose("assign", [*TINY, f"run={tmp_path}", *shared, "assign.policy=suffix"]))
    assert SIDTable.load(stage.folder).num_levels == 4
    assert json.loads((stage.folder / "quality.json").read_text())["added_distortion"] == 0.0


@pytest.mark.parametrize("missing", [[], ["fastapi"]])
def test_a_pipeline_ends_by_naming_the_command_that_opens_the_page(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    monkeypatch.setattr(serve, "missing_packages", lambda: missing)
    run_all(finished)
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"trialign serve run={finished}" in last
    assert ("pip install 'trialign[serve]'" in last) == bool(missing)
