"""What a run was made with need not be typed again: which settings are taken, from where, and who comes first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from trialign.launch.cli import _parted

from trialign.config.compose import compose, words_of_run
from trialign.config.quantize import QuantizeConfig
from trialign.config.stages import identity_of, recorded_of, stage_folder
from trialign.config.taken import _stages, takes
from trialign.config.verbs import STAGES
from trialign.errors import ConfigError
from trialign.stage import CHECKPOINTS, Stage, require_same_settings

MADE = [
    "data=beauty",
    "data.root=/there",
    "embed/image=none",
    "quantize=rqvae",
    "quantize.weights={text: 2.0}",
    "train/tasks=text6",
    "train.tasks.titles_to_title=0.25",
    "train.backbone.hidden_size=64",
    "stream.global_batch_size=4",
    "runtime.micro_batch_size=4",
    "runtime.threads=1",
    "evaluate.users=50",
    "evaluate.batch_size=7",
    "seed=3",
]
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return partial(finish, tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(
        tmp_path_factory.mktemp("made"), ["prepare", "embed", "quantize", "assign", "train", "evaluate"], *MADE
    )


def finish(place: Path, stages: list[str], *settings: str, killed: bool = False) -> Path:
    """Finish stages of a run without doing their work, or break them off."""
    run, config = place / "run", compose("pipeline", [f"run={place / 'nothing'}", *settings])
    for verb in stages:
        folder = run / stage_folder(verb, config).relative_to(config.run)
        stage = Stage.open(verb, folder, identity_of(verb, config), recorded=recorded_of(verb, config))
        with suppress(KeyboardInterrupt), stage.building():
            if killed:
                raise KeyboardInterrupt
        if killed:
            (folder / CHECKPOINTS).mkdir()
            (folder / CHECKPOINTS / "step-00000002.json").write_text("{}")
    return run


@pytest.mark.parametrize("verb", ["train", "pipeline"])
def test_a_finished_stage_is_what_its_settings_compose_without_being_repeated(
    made: Path, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        config = compose(verb, [f"run={made}"])
    for stage in ("prepare", "embed", "quantize", "assign", "train", *(("evaluate",) if verb != "train" else ())):
        require_same_settings(stage_folder(stage, config), identity_of(stage, config))
    (line,) = (record.message for record in caplog.records if record.message.startswith("settings of"))
    start = f"settings of {made}: data=beauty embed/image=none quantize=rqvae "
    assert line.startswith(start)
    for told in (
        "quantize.weights.text=2.0",
        "train.tasks.titles_to_title=0.25",
        "train.tasks.history_to_title=1.0",
        "train.backbone.hidden_size=64",
        "seed=3",
    ):
        assert told in line.split()
    assert "epochs" not in line, "what is as it would be without is not told"


def test_what_is_of_the_machine_is_not_taken_but_for_the_rows_that_divide_the_lanes(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIALIGN_DATA", raising=False)
    config = compose("evaluate", [f"run={made}"])
    assert (config.stream.global_batch_size, config.runtime.micro_batch_size, config.evaluate.batch_size) == (4, 4, 7)
    assert (config.runtime.threads, config.data.root) == (None, None)


def test_a_plus_before_a_setting_of_the_run_is_refused_and_does_not_lose_the_others(make: Make) -> None:
    """Red: trained with the defaults of everything else. `train.steps` has no default, so Hydra appends it."""
    run = make(["train"], "train.steps=6", "train.backbone.hidden_size=64")
    assert words_of_run("train", [f"run={run}", "+train.steps=2"]).values["train.backbone.hidden_size"] == 64
    with pytest.raises(ConfigError, match=r"\+train.steps(.|\n)*write train.steps=VALUE, without \+"):
        compose("train", [f"run={run}", "+train.steps=2"])
    assert compose("train", [f"run={run}", "train.steps=2"]).train.backbone.hidden_size == 64  # type: ignore[attr-defined]


def test_addresses_of_servers_are_not_taken(make: Make) -> None:
    asked = ["enrich/captions=endpoint", "enrich.captions.model=m", "enrich.captions.max_attempts=2"]
    run = make(["enrich"], *asked, "enrich.captions.url=http://10.0.0.9:8000/v1")
    config = compose("enrich", [f"run={run}"])
    assert config.enrich.captions.model == "m"
    assert config.enrich.captions.max_attempts == 2
    assert config.enrich.captions.url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("typed", "hidden", "lanes", "quantizer", "interactions"),
    [
        ("train.backbone.hidden_size=32 quantize=rkmeans", 32, 4, "RKMeans", "2014_beauty"),
        ("data=scientific stream.global_batch_size=8", 64, 8, "RQVAE", "2018_scientific"),
        ("experiment=scientific", 64, 4, "RKMeans", "2018_scientific"),
    ],
)
def test_what_is_typed_and_the_files_it_names_come_before_the_run(
    made: Path, typed: str, hidden: int, lanes: int, quantizer: str, interactions: str
) -> None:
    """Red: values of the run laid over the file that the user chose; the last experiment sets what RQ-VAE lacks."""
    config = compose("train", [f"run={made}", *typed.split()])
    assert config.train.backbone.hidden_size == hidden
    assert config.stream.global_batch_size == lanes
    assert quantizer in config.quantize._target_.replace("RQKMeans", "RKMeans")
    assert interactions in config.data.interactions
    assert config.train.epochs == (10 if "experiment" in typed else compose("train", ["run=/tmp/unused"]).train.epochs)


def test_an_own_choice_of_tasks_is_whole(made: Path) -> None:
    tasks = vars(compose("train", [f"run={made}", "train/tasks=text3"]).train.tasks)
    assert {name for name, weight in tasks.items() if weight} == {"history_to_item", "title_to_item", "item_to_title"}


def test_a_training_that_was_killed_goes_on_with_its_settings(make: Make) -> None:
    run = make(["train"], *MADE, killed=True)
    config = compose("train", [f"run={run}"])
    assert (config.train.backbone.hidden_size, config.seed, config.runtime.micro_batch_size) == (64, 3, 4)
    require_same_settings(run / "train", identity_of("train", config))


def test_the_stage_decides_its_own_seed_and_stream_and_the_last_one_those_of_a_new_stage(make: Make) -> None:
    run = make(["quantize", "train"], "seed=1", "stream.global_batch_size=16")
    make(["rl"], "seed=2", "stream.global_batch_size=32")
    found = {verb: compose(verb, [f"run={run}"]) for verb in ("quantize", "train", "rl", "reward")}
    assert {verb: config.seed for verb, config in found.items()} == {"quantize": 1, "train": 1, "rl": 2, "reward": 0}
    assert (found["train"].stream.global_batch_size, found["rl"].stream.global_batch_size) == (16, 32)


def test_another_run_decides_only_what_belongs_to_the_stage_taken_from_it(made: Path, tmp_path: Path) -> None:
    new = [f"run={tmp_path / 'new'}", f"from.prepare={made}", f"from.train={made / 'train'}"]
    config = compose("rl", new)
    assert (config.data.interactions, config.train.backbone.hidden_size) == (
        "amazon2014_beauty/Beauty.inter.json",
        64,
    )
    assert (config.seed, config.stream.global_batch_size, config.runtime.micro_batch_size) == (0, 8, 8)
    assert "RQVAE" not in config.quantize._target_, "nothing of it was taken"


def test_a_new_split_and_a_new_run_start_from_defaults(made: Path, tmp_path: Path) -> None:
    assert compose("evaluate", [f"run={made}", "evaluate.split=validation"]).evaluate.users is None
    assert compose("train", [f"run={tmp_path / 'new'}"]).train.backbone.hidden_size == 128
    assert compose("report", [f"run={made}"]).train.backbone.hidden_size == 128


def test_a_text_with_an_interpolation_stays_the_text_it_was(make: Make) -> None:
    run = make(["enrich"], "enrich/captions=endpoint", "enrich.captions.model=m")
    manifest = run / "enrich" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model": "m"', '"model": "${user}"'))
    config = compose("enrich", [f"run={run}"])
    assert config.enrich.captions.model == config.identity["enrich"]["captions"]["model"] == "${user}"


def test_a_class_of_the_users_own_is_found_in_the_users_folder_or_left_to_the_command_line(
    make: Make, tmp_path: Path
) -> None:
    run = make(["quantize"])
    manifest = run / "quantize" / "manifest.json"
    record = json.loads(manifest.read_text())
    record["config"]["quantize"] = {"_target_": "mine.Quantizer", "num_levels": 2, "codebook_size": 5}
    manifest.write_text(json.dumps(record))
    assert compose("quantize", [f"run={run}"]).quantize.codebook_size == 256
    (tmp_path / "own" / "quantize").mkdir(parents=True)
    (tmp_path / "own" / "quantize" / "mine.yaml").write_text(
        "_target_: mine.Quantizer\nnum_levels: 3\ncodebook_size: 4\n"
    )
    config = compose("quantize", [f"run={run}", f"hydra.searchpath=['file://{tmp_path / 'own'}']"])
    assert config.quantize == QuantizeConfig("mine.Quantizer", num_levels=2, codebook_size=5)


def test_a_folder_of_the_users_own_files_is_read_beside_ours(tmp_path: Path) -> None:
    """As `--config-dir` hands it to Hydra, to the members of a sweep and to jobs."""
    own = tmp_path / "it's mine"
    for file, text in {
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /data: shop\ntrain:\n  epochs: 3\n",
        "data/shop.yaml": "defaults: [tables, _self_]\nevents: orders.csv\nitems: products.csv\n",
    }.items():
        (own / file).parent.mkdir(parents=True)
        (own / file).write_text(text)
    options, words = _parted(["--cfg", "job", "experiment=mine", "--config-dir", str(own), "run=/tmp/unused", "-m"])
    assert options == ["--cfg", "job", "-m"]
    for verb in ("pipeline", "submit", "recommend"):
        config = compose(verb, words)
        assert (config.train.epochs, config.data.events) == (3, "orders.csv"), verb
    with pytest.raises(ConfigError, match="name a folder that is there"):
        _parted([f"--config-dir={tmp_path / 'nowhere'}"])


def test_a_verb_reads_the_records_upstream_of_it_and_its_own_last() -> None:
    assert _stages("assign") == ["prepare", "enrich", "reward", "embed", "quantize", "assign"]
    assert _stages("train")[-1] == "train"
    assert set(_stages("pipeline")) == set(_stages(None)) == set(STAGES)
    assert takes("submit")
    assert not takes("report")
