"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from trialign.launch import cli

from trialign.config.verbs import VERBS


def trialign(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trialign.launch.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['trialign', '--help']; from trialign.launch.cli import main; main(); "
        "assert not {'torch', 'hydra', 'numpy', 'pyarrow'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def test_a_long_name_does_not_break_the_column_of_verbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.VERBS, "a_rather_long_verb", cli.VERBS["status"])
    cli._answer([], None)  # type: ignore[arg-type]  # the overview writes no transcript
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index(verb.help) for verb in cli.VERBS.values() for line in lines if verb.help in line}) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_its_settings(verb: str) -> None:
    done = trialign(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["quantise"], "did you mean 'quantize'"),
        (["train"], "add run=DIR"),
        (["recommend", "run=x", "--json"], "recommend.format=json"),
        (["train", "run=x", "train.epoch=3"], "did you mean 'train.epochs'"),
        (["train", "run=x", "seed=one"], "seed"),
        (["quantize", "run=nowhere"], "trialign embed"),
        (["submit", "trian", "run=x", "cluster=gpu"], "did you mean 'train'"),
        (["submit", "train", "run=x"], "add cluster=NAME"),
        (["submit", "train", "run=x", "cluster=gpuu"], "minicluster"),
        (["pipeline", "run=x", "enrich.shard=0", "enrich.shards=2"], "for every share"),
        (["pipeline", "run=x", "evaluate.generator=rl"], "train.rl_holdout=0.2"),
    ],
)
def test_a_mistake_is_one_readable_message_and_no_traceback(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = trialign(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "remedy:" in done.stderr
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


def test_refused_settings_exit_with_2_and_failed_stages_with_1(tmp_path: Path) -> None:
    assert trialign("train", "run=x", "nonsense", cwd=tmp_path).returncode == 2
    assert trialign("quantize", "run=x", cwd=tmp_path).returncode == 1


def test_a_stage_says_that_it_is_built_or_was_finished_and_where(tmp_path: Path) -> None:
    prepare = ("prepare", "run=x", "data.num_items=60", "data.num_users=80")
    first, second = trialign(*prepare, cwd=tmp_path), trialign(*prepare, cwd=tmp_path)
    assert first.stdout.startswith("prepare: built in"), first.stderr
    assert "items 60" in first.stdout
    assert str(tmp_path / "x" / "prepare") in first.stdout
    assert second.stdout.startswith("prepare: was finished"), second.stderr


def test_what_is_said_on_both_streams_is_kept_in_the_run_attempt_after_attempt(tmp_path: Path) -> None:
    small = ["prepare", "run=first", "data.num_items=48", "data.num_users=20"]
    other = [*small[:-1], "data.num_users=21"]
    built, refused = trialign(*small, cwd=tmp_path), trialign(*other, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert (refused.returncode, refused.stdout) == (1, "")
    lines = (tmp_path / "first" / "console.log").read_text().splitlines()
    starts = [place for place, line in enumerate(lines) if line.startswith("---")]
    assert [lines[place].partition(": ")[2] for place in starts] == [
        f"trialign {' '.join(small)}",
        f"trialign {' '.join(other)}",
    ]
    assert lines[starts[0] + 1 : starts[1]] == [*built.stdout.splitlines(), *built.stderr.splitlines()]
    assert lines[starts[1] + 1 :] == refused.stderr.splitlines()
    assert "console.log" not in (tmp_path / "first" / "prepare" / "manifest.json").read_text()


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m trialign.launch.cli prepare --help | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr


def test_members_of_a_multirun_go_on_with_the_settings_of_their_runs_and_leave_no_file(tmp_path: Path) -> None:
    """Red: 2,000 items, as by default, over a run of 60; Hydra's own sweeper leaves a multirun.yaml."""
    for run, num_items in (("a", 60), ("b", 70)):
        trialign("prepare", f"run={run}", f"data.num_items={num_items}", "data.num_users=80", cwd=tmp_path)
    done = trialign("prepare", "-m", "run=a,b", cwd=tmp_path)
    assert done.stdout.count("prepare: was finished") == 2, done.stderr
    for run, num_items in (("a", 60), ("b", 70)):
        assert f"settings of {tmp_path / run}: data.num_items={num_items} data.num_users=80\n" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    shown = trialign("prepare", "run=b", "--cfg", "job", "data.num_users=81", cwd=tmp_path).stdout
    assert "num_items: 70\n" in shown
    assert "num_users: 81\n" in shown
