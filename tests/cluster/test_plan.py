"""What `submit` and a sweep make of a config, and what they refuse before anything is queued."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from trialign.launch.cli import script

from trialign.cluster.plan import job_for, jobs_for
from trialign.cluster.preflight import begun_anew, check_finished, check_settings
from trialign.cluster.record import JobSpec, place_of
from trialign.cluster.render import render
from trialign.cluster.slurm import _gpus
from trialign.cluster.status import status
from trialign.cluster.sweep import members_of, queue
from trialign.config.compose import as_override, compose, conf_dir
from trialign.config.config import Config
from trialign.config.stages import identity_of, planned, runtime_of
from trialign.config.verbs import REQUIRED, STAGES
from trialign.errors import ConfigError, StageError
from trialign.stage import Stage


def config(*overrides: str, run: str = "/runs/one") -> Config:
    return compose("submit", [f"run={run}", "cluster=minicluster", *overrides])


def test_a_pipeline_is_one_job_per_stage_and_leaves_out_what_is_taken() -> None:
    jobs = jobs_for(
        "pipeline", config("from.prepare=/runs/other", "runtime.devices=2", "stream.global_batch_size=16"), ["seed=1"]
    )
    assert [job.verb for job in jobs] == [verb for verb in REQUIRED if verb != "prepare"]
    assert {job.verb: job.tasks_per_node for job in jobs} == {job.verb: 1 + (job.verb == "train") for job in jobs}
    assert all(job.command[-4:-1] == [job.verb, "seed=1", "run=/runs/one"] for job in jobs)


def test_only_stages_and_the_pipeline_are_submitted() -> None:
    for verb in ("report", "trian", None):
        with pytest.raises(ConfigError, match="trialign submit"):
            jobs_for(verb, config(), [])


FOUR_GPUS = (
    "cluster=gpu",
    "runtime.nodes=2",
    "runtime.devices=4",
    "runtime.strategy=ddp",
    "stream.global_batch_size=64",
)


@pytest.mark.parametrize(
    ("verb", "overrides", "shape"),
    [
        ("prepare", (), (1, 1, 0)),
        ("enrich", (), (1, 1, 0)),  # nothing is asked for
        ("enrich", ("enrich/interests=builtin",), (1, 1, 1)),
        ("embed", (), (1, 1, 1)),
        ("quantize", (), (1, 1, 0)),  # residual k-means counts on one CPU
        ("quantize", ("quantize=rqvae",), (2, 4, 4)),
        ("assign", (), (1, 1, 0)),
        ("train", (), (2, 4, 4)),
        ("train", ("runtime.accelerator=cpu",), (2, 4, 0)),
        ("reward", (), (1, 1, 1)),
        ("rl", (), (2, 4, 4)),
        ("evaluate", (), (1, 1, 1)),
        ("pipeline", ("runtime.nodes=1", "runtime.devices=1"), (1, 1, 1)),
    ],
)
def test_every_stage_gets_the_ranks_and_gpus_that_it_can_use(
    verb: str, overrides: tuple[str, ...], shape: tuple[int, int, int]
) -> None:
    job = job_for(verb, config(*FOUR_GPUS, *overrides), [])
    assert (job.nodes, job.tasks_per_node, job.gpus_per_node) == shape


def test_what_a_stage_is_told_of_ranks_is_what_its_job_has() -> None:
    """Red: a job of one task whose stage asks Lightning for the ranks of the training."""
    for asked in (config(*FOUR_GPUS), config(*FOUR_GPUS, "quantize=rqvae")):
        for verb in STAGES:
            job, runtime = job_for(verb, asked, []), runtime_of(verb, asked)
            assert (job.nodes, job.tasks_per_node) == (runtime.nodes, runtime.devices)
            assert runtime.strategy == ("ddp" if job.nodes > 1 else "single")


def test_the_stages_that_meet_ranks_are_those_that_are_planned_on_several() -> None:
    """Every stage that starts ranks is one that may have several: found in the scripts, held against the table."""
    scripts = {verb: (conf_dir().parent / "launch" / f"{verb}.py").read_text() for verb in STAGES}
    on_several = {verb for verb in STAGES if STAGES[verb].ranks(config("quantize=rqvae"))}
    assert {verb for verb, text in scripts.items() if "ranks_for_a_while" in text} == on_several


def test_every_stage_is_submitted_and_shown(tmp_path: Path) -> None:
    assert {job_for(verb, config(), []).verb for verb in STAGES} == set(STAGES)
    assert [jobs_for(verb, config(), [])[0].verb for verb in STAGES] == list(STAGES)
    assert {line.name for line in status(tmp_path)} == {verb for verb, stage in STAGES.items() if not stage.optional}
    for verb in STAGES:
        (tmp_path / verb).mkdir()
    assert {line.name for line in status(tmp_path)} == set(STAGES)


def test_a_chain_trains_by_reinforcement_on_the_ranks_of_the_run() -> None:
    asked = config(*FOUR_GPUS, "evaluate.generator=rl", "rl.objective=sft", "train.rl_holdout=0.2")
    jobs = {job.verb: job for job in jobs_for("pipeline", asked, [])}
    assert list(jobs) == planned(asked)
    assert (jobs["rl"].nodes, jobs["rl"].tasks_per_node, jobs["rl"].gpus_per_node) == (2, 4, 4)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["evaluate.generator=rl"], "train.rl_holdout=0 in a pipeline"),
        (["enrich.shard=0", "enrich.shards=2"], "enrich.shard=0 in a pipeline"),
    ],
)
def test_a_pipeline_that_cannot_end_is_refused_before_a_job_is_made(overrides: list[str], told: str) -> None:
    asked = config(*overrides)
    for ask in (jobs_for, job_for):
        with pytest.raises(ConfigError, match=told):
            ask("pipeline", asked, [])


def test_reinforcement_of_a_generator_of_another_run_needs_nothing_held_out_for_rl_here() -> None:
    asked = config("evaluate.generator=rl", "from.train=runs/sft", "from.prepare=runs/sft", "from.assign=runs/sft")
    assert "rl" in {job.verb for job in jobs_for("pipeline", asked, [])}


def test_one_process_needs_no_strategy_whatever_the_run_sets_for_others() -> None:
    asked = config("runtime.devices=2", "stream.global_batch_size=16")
    check_settings(asked, jobs_for("embed", asked, []))
    with pytest.raises(ConfigError, match=r"2 ranks .* of rl"):
        check_settings(asked, jobs_for("rl", asked, []))


@pytest.mark.parametrize(
    ("overrides", "told", "remedy"),
    [
        (["cluster=none"], "no cluster is named", "cluster=NAME"),
        (["runtime.nodes=2", "stream.global_batch_size=16"], "single with 2 ranks", "runtime.strategy=ddp"),
        (
            ["cluster=gpu", "runtime.devices=16", "runtime.strategy=ddp", "stream.global_batch_size=128"],
            "runtime.devices=16 with cluster.gpus_per_node=8",
            "runtime.devices=8 runtime.nodes=2",
        ),
        (
            ["cluster=gpu", "runtime.devices=12", "runtime.strategy=ddp", "stream.global_batch_size=384"],
            "runtime.devices=12 with cluster.gpus_per_node=8",
            "runtime.devices=8 runtime.nodes=2",
        ),
    ],
)
def test_what_the_config_alone_shows_is_refused(overrides: list[str], told: str, remedy: str) -> None:
    asked = config(*overrides)
    with pytest.raises(ConfigError, match=told) as refused:
        check_settings(asked, jobs_for("train", asked, []))
    assert remedy in refused.value.remedy


def test_settings_that_a_finished_run_was_not_made_with_are_refused_before_queueing(tmp_path: Path) -> None:
    """As the stage itself would refuse them, once its job has waited."""
    words = ["data.num_items=60", "data.num_users=80"]
    script("prepare")(config(*words, run=str(tmp_path)))
    same, other = config(*words, run=str(tmp_path)), config(*words, "data.max_history=7", run=str(tmp_path))
    for verb in ("pipeline", "prepare"):
        check_finished(same, jobs_for(verb, same, []))
        with pytest.raises(StageError, match=r"prepare was finished with other settings: data\.max_history \d+ -> 7"):
            check_finished(other, jobs_for(verb, other, []))
    with pytest.raises(StageError, match="prepare was finished with other settings"):
        check_finished(other, [job_for("pipeline", other, [])])  # all in one job, as a member of a sweep
    check_finished(other, jobs_for("train", other, []))  # which reads data, and is asked of it by its own manifest
    anew = replace(other, rebuild=True)
    check_finished(anew, jobs_for("pipeline", anew, []))


def test_submitting_says_which_stages_a_preemption_starts_anew_and_the_limit_they_fit_into(
    tmp_path: Path,
) -> None:
    words = ["cluster=minicluster", "data.num_items=60", "data.num_users=80", f"run={tmp_path}", "--dry-run"]
    command = [sys.executable, "-m", "trialign.launch.cli", "submit"]
    done = subprocess.run([*command, "embed", *words, "cluster.time=30:00"], capture_output=True, text=True, check=True)
    assert "embed: cannot save half-way; begun anew by a preemption, and whole within the time limit" in done.stdout
    assert "(cluster.time=30:00)" in done.stdout
    chain = config("data.num_items=60", "data.num_users=80", run=str(tmp_path))
    jobs = jobs_for("pipeline", chain, [])
    assert (told := begun_anew(chain, jobs)) is not None
    assert told.startswith("prepare, baselines, enrich, embed, quantize, assign, evaluate: cannot save half-way")
    script("prepare")(chain)
    assert (told := begun_anew(chain, jobs)) is not None
    assert told.startswith("baselines, enrich"), "what is finished answers in seconds"
    assert begun_anew(chain, jobs_for("train", chain, [])) is None


def test_settings_that_a_killed_training_did_not_begin_with_are_refused_before_queueing(tmp_path: Path) -> None:
    begun, other = config(run=str(tmp_path)), config("train.learning_rate=0.5", run=str(tmp_path))
    stage = Stage.open("train", tmp_path / "train", identity_of("train", begun))
    with contextlib.suppress(KeyboardInterrupt), stage.building(["checkpoints"]) as folder:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step-000000010.json").touch()
        raise KeyboardInterrupt
    check_finished(begun, jobs_for("train", begun, []))
    with pytest.raises(StageError, match=r"step-000000010 of a training with .*train\.learning_rate .* -> 0\.5"):
        check_finished(other, jobs_for("train", other, []))


@pytest.mark.parametrize(("lanes", "nearest"), [(32, 36), (5, 12)])
def test_lanes_that_the_ranks_do_not_divide_name_the_nearest(lanes: int, nearest: int) -> None:
    ranks = ("runtime.nodes=3", "runtime.devices=2", "runtime.micro_batch_size=2")
    with pytest.raises(ConfigError, match="6 ranks") as refused:
        config(*ranks, f"stream.global_batch_size={lanes}")
    assert refused.value.remedy == f"set stream.global_batch_size={nearest}, which is another training"
    config(*ranks, f"stream.global_batch_size={nearest}")


def test_ranks_that_divide_the_lanes_are_told_the_rows_that_leave_the_training_as_it_is() -> None:
    given = ("runtime.nodes=2", "stream.global_batch_size=12")
    with pytest.raises(ConfigError, match="2 ranks") as refused:
        config(*given, "runtime.micro_batch_size=8")
    assert (
        refused.value.remedy
        == "set runtime.micro_batch_size=2, or stream.global_batch_size=16, which is another training"
    )
    config(*given, "runtime.micro_batch_size=2")


def test_an_array_has_an_element_for_every_member(tmp_path: Path) -> None:
    words = [[f"run={tmp_path}/{seed}", f"seed={seed}", "cluster.dry_run=true"] for seed in (1, 2, 3)]
    told: list[str] = []
    assert queue(members_of("train", [config(*found) for found in words], words), told.append) == {}
    assert "#SBATCH --array=0-2%4" in told[0].splitlines()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([["run=/r/same"], ["run=/r/same"]], "several members of the sweep have the run directory /r/same"),
        (
            [["run=/r/1"], ["run=/r/2", "runtime.devices=2", "runtime.strategy=ddp", "stream.global_batch_size=16"]],
            "ask for different nodes",
        ),
    ],
)
def test_members_that_make_no_array_are_refused(changes: list[list[str]], told: str) -> None:
    configs = [config(*words) for words in changes]
    with pytest.raises(ConfigError, match=told):
        members_of("train", configs, changes)


def test_a_pipeline_in_one_job_has_one_rank() -> None:
    two = config("runtime.devices=2", "runtime.strategy=ddp", "stream.global_batch_size=16")
    with pytest.raises(ConfigError, match="1 x 2 ranks"):
        members_of("pipeline", [two], [[]])


def test_the_script_carries_the_site_and_survives_odd_words(tmp_path: Path) -> None:
    site = config(
        "cluster.account=physics",
        "cluster.sbatch=['--constraint=a100']",
        "cluster.setup=[module load cuda]",
        "cluster.environment.GREETING='a $b (c) @workdir@'",
    )
    job = job_for("train", site, ["run=/runs/one"])
    script = render(job, site.cluster, specs="spec.json", environment={}, log=tmp_path)
    for line in ("#SBATCH --account=physics", "#SBATCH --constraint=a100", "module load cuda", "#SBATCH --requeue"):
        assert line in script.splitlines()
    assert "export GREETING='a $b (c) @workdir@'" in script
    assert "@" not in script.replace("B:USR1@", "").replace("@workdir@", "", 1)


def test_the_options_of_a_script_are_words_to_slurm(tmp_path: Path) -> None:
    site = config("cluster.sbatch=['--comment=a \"b\" c\\d']")
    job = job_for("train", site, [])
    script = render(job, site.cluster, specs="", environment={}, log=tmp_path / "50%").splitlines()
    assert '#SBATCH "--comment=a \\"b\\" c\\\\d"' in script
    assert f"#SBATCH --output={tmp_path}/50%%/train_%j.log" in script
    assert "#SBATCH --open-mode=append" in script  # a job that is queued again writes on


def test_a_job_whose_setup_fails_starts_nothing(tmp_path: Path) -> None:
    for setup, code, told in (("test 1 = 1", 0, "-m trialign.cluster.job spec.json"), ("test 1 = 2", 1, "")):
        site = config("cluster.python=/bin/echo", f"cluster.setup=['{setup}']")
        job = replace(job_for("train", site, []), workdir=str(tmp_path))
        script = tmp_path / "train.sbatch"
        script.write_text(render(job, site.cluster, specs="spec.json", environment={}, log=tmp_path))
        done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == code
        assert done.stdout.startswith(told)
        assert bool(done.stdout) == bool(told)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["cluster.sbatch=['--comment=one\ntwo']"], "'--comment=one\\ntwo'"),
        (["cluster.account='a\nb'"], "'--account=a\\nb'"),
    ],
)
def test_what_no_line_of_a_script_can_hold_is_refused(overrides: list[str], told: str, tmp_path: Path) -> None:
    site = config(*overrides)
    job = job_for("train", site, [])
    with pytest.raises(ConfigError) as refused:
        render(job, site.cluster, specs="spec.json", environment={}, log=tmp_path)
    assert told in refused.value.value
    with pytest.raises(ConfigError, match=r"cluster\.environment\.A B"):
        render(job, config().cluster, specs="spec.json", environment={"A B": "c"}, log=tmp_path)


def test_the_script_says_how_the_ranks_are_started(tmp_path: Path) -> None:
    site = config("runtime.devices=2", "runtime.strategy=ddp", "stream.global_batch_size=16", run="'/runs/50% of it'")
    job = job_for("train", site, ["train.warmup='1\n2'"])
    script = render(job, site.cluster, specs="", environment={}, log=tmp_path)
    (line,) = (line for line in script.splitlines() if "srun" in line)
    assert line.startswith("#   srun --nodes=1 --ntasks-per-node=2 --ntasks=2 ")
    assert " --kill-on-bad-exit=1 " in line  # the others would wait for the rank that died
    assert "'--output=/runs/50%% of it/slurm/log/train_JOB_%t.log'" in line
    assert "'train.warmup='\"'\"'1\\n2'" in line


ODD = ["/a b", "/it's", "/end\\", "/\\'", "/50% [1]{2},=;:#@", "/$HOME", "/é中", "/@setup@"]


@pytest.mark.parametrize("path", ODD)
def test_a_path_of_any_letters_reaches_the_job(path: str) -> None:
    assert compose("submit", [as_override("run", path)]).run == Path(path)


def test_paths_of_a_job_do_not_depend_on_where_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container starts in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    words = ["++run=runs/one", "from.prepare=runs/other", "data=scientific", "data.root=files", "seed=1"]
    command = job_for("train", compose("submit", [*words, "cluster=minicluster"]), words).command
    assert "++run=runs/one" not in command
    inside = compose("train", command[command.index("train") + 1 :])
    monkeypatch.chdir("/")
    assert compose("train", command[command.index("train") + 1 :]) == inside
    assert inside.run == tmp_path / "runs" / "one"
    assert inside.from_stage == {"prepare": tmp_path / "runs" / "other"}
    assert inside.data.root == str(tmp_path / "files")
    assert inside.seed == 1


def test_a_variable_of_the_job_is_named_on_the_command_line_and_nothing_else_is_made_up() -> None:
    site = config("cluster=gpu", "cluster.environment.NCCL_DEBUG=INFO", "cluster.environment.NCCL_IB_TIMEOUT=22")
    assert site.cluster.environment["NCCL_DEBUG"] == "INFO"
    assert site.cluster.environment["NCCL_IB_TIMEOUT"] == "22"
    assert "TORCH_NCCL_ASYNC_ERROR_HANDLING" in site.cluster.environment
    with pytest.raises(ConfigError, match=r"unknown setting 'cluster\.enviroment"):
        config("cluster.enviroment.NCCL_DEBUG=INFO")


def test_the_limits_of_a_job_are_told_in_seconds() -> None:
    job = job_for("train", config("cluster.watchdog_minutes=2", "cluster.leave_seconds=7"), [])
    assert (job.watchdog_seconds, job.leave_seconds) == (120.0, 7.0)


def test_a_stage_that_is_finished_is_further_than_any_step_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "train" / "checkpoints").mkdir(parents=True)
    (tmp_path / "train" / "checkpoints" / "step-00000200.json").touch()
    spec = job_for("pipeline", config(run=str(tmp_path)), [])
    before = place_of(spec)
    (tmp_path / "train" / "checkpoints" / "step-00000200.json").unlink()
    (tmp_path / "train" / "manifest.json").touch()
    assert place_of(spec) > before


def test_a_lock_that_a_killed_attempt_left_is_no_progress(tmp_path: Path) -> None:
    (tmp_path / "embed").mkdir()
    spec = job_for("embed", config(run=str(tmp_path)), [])
    before = place_of(spec)
    (tmp_path / "embed" / ".lock.1").touch()
    assert place_of(spec) == before
    (tmp_path / "embed" / "text.npy").touch()
    assert place_of(spec) > before


def test_a_job_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    job = job_for("train", config(run=str(tmp_path)), ["run=a b", "x='[1,2]'"])
    job.folder.mkdir()
    assert JobSpec.load(job.save()) == job
    assert json.loads((tmp_path / "slurm" / "train.json").read_text())["command"][-2:] == [
        "x='[1,2]'",
        f"run={tmp_path}",
    ]


@pytest.mark.parametrize(
    ("gres", "number"),
    [("(null)", 0), ("gpu:8", 8), ("gpu:a100:4(S:0-1)", 4), ("gpu:virtual:2,shard:8", 2), ("craynetwork:4", 0)],
)
def test_gpus_are_read_from_what_sinfo_says(gres: str, number: int) -> None:
    assert _gpus(gres) == number
