"""A stage is finished when its manifest is there, and only then."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trialign.errors import ConfigError, StageError
from trialign.files import write_atomically
from trialign.lock import HeldError
from trialign.manifest import MANIFEST, Manifest, flatten
from trialign.stage import Stage, settings_of


def stage(folder: Path, name: str = "embed", *, rebuild: bool = False, **settings: object) -> Stage:
    config = settings.pop("config", {"dim": 4})
    return Stage.open(name, folder / name, config, rebuild=rebuild, **settings)  # type: ignore[arg-type]


def build(made: Stage, text: str = "vectors") -> Manifest:
    with made.building() as folder:
        (folder / "vectors.bin").write_text(text)
        made.counts["items"] = 3
    return made.read()


def test_second_run_is_skipped(tmp_path: Path) -> None:
    first = stage(tmp_path)
    assert not first.finished
    manifest = build(first)
    assert manifest.counts == {"items": 3}
    assert set(manifest.files) == {"vectors.bin"}
    assert stage(tmp_path).finished


def test_changed_setting_is_refused_with_what_changed_and_rebuilt_on_request(tmp_path: Path) -> None:
    build(stage(tmp_path))
    with pytest.raises(StageError, match=r"dim 4 -> 8"):
        stage(tmp_path, config={"dim": 8})
    again = stage(tmp_path, config={"dim": 8}, rebuild=True)
    assert not again.finished
    assert build(again, "other").config == {"dim": 8}


def test_same_content_has_the_same_hash_and_other_content_another(tmp_path: Path) -> None:
    hashes = [build(stage(tmp_path / str(i)), text).hash for i, text in enumerate(["a", "a", "b"])]
    assert hashes[0] == hashes[1] != hashes[2]


def test_how_fast_the_machine_was_is_recorded_and_no_part_of_the_hash(tmp_path: Path) -> None:
    found = []
    for seconds in ("1", "2"):
        made = stage(tmp_path / seconds)
        with made.building() as folder:
            (folder / "log").mkdir()
            (folder / "log" / "machine.csv").write_text(seconds)
        found.append(made.read())
    assert found[0].hash == found[1].hash
    assert "log/machine.csv" in found[0].files


def test_exception_leaves_an_unfinished_stage_whose_leftovers_are_cleared(tmp_path: Path) -> None:
    broken = stage(tmp_path)

    def fail() -> None:
        with broken.building() as folder:
            (folder / "half.bin").write_text("half")
            raise OSError("a cable was pulled")

    with pytest.raises(OSError, match="a cable was pulled"):
        fail()
    assert (tmp_path / "embed" / "half.bin").exists()
    assert not (tmp_path / "embed" / MANIFEST).exists()
    with pytest.raises(StageError, match="is not a finished stage"):
        Manifest.read(tmp_path / "embed")
    assert set(build(stage(tmp_path)).files) == {"vectors.bin"}


def test_failed_rebuild_does_not_leave_the_old_manifest_over_new_files(tmp_path: Path) -> None:
    build(stage(tmp_path))
    again = stage(tmp_path, config={"dim": 8}, rebuild=True)

    def fail() -> None:
        with again.building():
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert not (tmp_path / "embed" / MANIFEST).exists()


def test_kill_dash_nine_half_way_is_no_finished_stage(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from trialign.stage import Stage
made = Stage.open("embed", Path({str(tmp_path)!r}) / "embed", {{"dim": 4}})
with made.building() as folder:
    (folder / "half.bin").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    again = stage(tmp_path)
    assert not again.finished
    assert set(build(again).files) == {"vectors.bin"}


def test_leftovers_are_kept_for_the_same_configuration_only(tmp_path: Path) -> None:
    def attempt(dim: int) -> set[str]:
        made = stage(tmp_path, config={"dim": dim})
        found: set[str] = set()
        with contextlib.suppress(KeyboardInterrupt), made.building(keep=["checkpoints"]) as folder:
            found |= {path.name for path in folder.iterdir() if not path.name.startswith(".")}
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "scratch").mkdir(exist_ok=True)
            raise KeyboardInterrupt
        return found

    assert attempt(4) == set()
    assert attempt(4) == {"checkpoints"}
    assert attempt(8) == set()


def test_a_training_that_could_go_on_is_not_cleared_for_other_settings(tmp_path: Path) -> None:
    def attempt(dim: int, *, rebuild: bool = False) -> list[Path]:
        made = stage(tmp_path, config={"dim": dim}, rebuild=rebuild)
        with contextlib.suppress(KeyboardInterrupt), made.building(keep=["checkpoints"]) as folder:
            left = list((folder / "checkpoints").glob("*"))
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / "step-00000040.json").touch()
            raise KeyboardInterrupt
        return left

    attempt(4)
    with pytest.raises(StageError, match=r"step-00000040 of a training with other settings: config\.dim 4 -> 8"):
        attempt(8)
    assert len(attempt(4)) == 1
    assert attempt(8, rebuild=True) == []


def test_checkpoints_stay_until_the_manifest_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the last save, the training behind it is not lost; what lay in them is no part of the stage."""
    checkpoint = tmp_path / "embed" / "checkpoints" / "step-00000040"

    def attempt() -> Stage:
        made = stage(tmp_path)
        with made.building(keep=["checkpoints"]) as folder:
            (folder / "vectors.bin").write_text("vectors")
            checkpoint.mkdir(parents=True, exist_ok=True)
        return made

    def full(path: Path, text: str) -> None:
        if path.name == MANIFEST:
            raise OSError("a cable was pulled")
        write_atomically(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("trialign.stage.write_atomically", full)
        with pytest.raises(OSError, match="a cable was pulled"):
            attempt()
    assert checkpoint.exists()
    assert set(attempt().read().files) == {"vectors.bin"}
    assert not checkpoint.parent.exists()
    checkpoint.mkdir(parents=True)  # killed right behind the manifest
    assert stage(tmp_path).finished
    assert not checkpoint.parent.exists()


def lend_a_hand(folder: Path, patience: float) -> subprocess.Popen[str]:
    """Start a further rank; it says when its part is done, and, once it is let go, whether the manifest is there."""
    program = f"""
from trialign.manifest import MANIFEST
from trialign.stage import Stage
from pathlib import Path
made = Stage.open("embed", Path({str(folder)!r}) / "embed", {{"dim": 4}})
try:
    with made.building(first=False, patience={patience}):
        print("done", flush=True)
    print((made.folder / MANIFEST).exists(), flush=True)
except Exception as cause:
    print(cause, flush=True)
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_the_other_ranks_stay_until_the_first_has_written_the_manifest(tmp_path: Path) -> None:
    """A launcher ends whoever is left soon after one rank has ended well: the first, in its last save."""
    with stage(tmp_path).building():
        other = lend_a_hand(tmp_path, patience=60.0)
        assert other.stdout is not None
        assert other.stdout.readline() == "done\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(2.0)
    said, _ = other.communicate(timeout=30)
    assert (said, other.returncode) == ("True\n", 0)


def test_the_other_ranks_end_where_the_first_takes_longer_than_their_patience(tmp_path: Path) -> None:
    with stage(tmp_path).building(), lend_a_hand(tmp_path, patience=1.0) as other:
        said, _ = other.communicate(timeout=30)
    assert "the first rank took more than 1 s to write" in said


def test_the_other_ranks_end_where_the_first_ended_without_a_manifest(tmp_path: Path) -> None:
    others = []

    def attempt() -> None:
        with stage(tmp_path).building():
            others.append(lend_a_hand(tmp_path, patience=600.0))
            assert others[0].stdout is not None
            assert others[0].stdout.readline() == "done\n"
            raise OSError("a cable was pulled")

    with pytest.raises(OSError, match="a cable"):
        attempt()
    (other,) = others
    said, _ = other.communicate(timeout=30)
    assert "the first rank ended without" in said


def test_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from trialign.stage import Stage
made = Stage.open("embed", Path({str(tmp_path)!r}) / "embed", {{"dim": 4}})
with made.building():
    print("ready", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == b"ready\n"
        with pytest.raises(StageError, match=f"pid {writer.pid}"):
            build(stage(tmp_path))
        writer.stdin.close()
        assert writer.wait(timeout=60) == 0
    assert stage(tmp_path).finished


def test_what_another_finished_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    """Two find nothing there; one builds, and the other gets the lock once it is through."""
    slow = stage(tmp_path)
    build(stage(tmp_path), "first")
    with pytest.raises(HeldError, match="finished by another process meanwhile"), slow.building():
        pytest.fail("it must not begin")
    assert (slow.folder / "vectors.bin").read_text() == "first"
    assert stage(tmp_path).finished


def test_a_run_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageError, match="cannot be made"):
        build(stage(tmp_path / "file"))


def test_unfinished_input_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "prepare").mkdir()
    with pytest.raises(StageError, match="trialign prepare"):
        stage(tmp_path, inputs={"prepare": tmp_path / "prepare"})


def test_changed_input_is_noticed(tmp_path: Path) -> None:
    build(stage(tmp_path, "prepare"), "one")
    build(stage(tmp_path, inputs={"prepare": tmp_path / "prepare"}))
    build(stage(tmp_path, "prepare", config={"seed": 1}, rebuild=True), "two")
    with pytest.raises(StageError, match="input prepare is another one"):
        stage(tmp_path, inputs={"prepare": tmp_path / "prepare"})


def test_inputs_from_two_catalogues_are_refused(tmp_path: Path) -> None:
    for run in ("a", "b"):
        build(stage(tmp_path / run, "prepare"), f"catalogue {run}")
        build(stage(tmp_path / run, inputs={"prepare": tmp_path / run / "prepare"}))
    with pytest.raises(StageError, match="mix two different 'prepare' stages"):
        stage(
            tmp_path / "a",
            "assign",
            inputs={"prepare": tmp_path / "a" / "prepare", "embed": tmp_path / "b" / "embed"},
        )


def test_outside_source_is_compared_by_content(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text("one")
    build(stage(tmp_path, sources={"log": log}))
    os.utime(log, ns=(0, 0))
    assert stage(tmp_path, sources={"log": log}).finished, "a new time alone changes nothing"
    log.write_text("two")
    with pytest.raises(StageError, match="source log has other bytes"):
        stage(tmp_path, sources={"log": log})


def test_a_finished_stage_that_lost_a_file_is_refused_and_made_again_on_demand(tmp_path: Path) -> None:
    """Red: the stage counts as finished, and whoever opens the file is the first to notice."""
    build(stage(tmp_path))
    name = next(iter(stage(tmp_path).read().files))
    (tmp_path / "embed" / name).unlink()
    with pytest.raises(StageError, match=rf"lacks 1 of the files it was finished with: {name}") as refused:
        stage(tmp_path)
    assert "rebuild=true" in refused.value.remedy
    again = stage(tmp_path, rebuild=True)
    assert not again.finished
    build(again)
    assert stage(tmp_path).finished


def test_damaged_manifest_is_refused(tmp_path: Path) -> None:
    build(stage(tmp_path))
    path = tmp_path / "embed" / MANIFEST
    path.write_text(path.read_text()[:40])
    with pytest.raises(StageError, match="cannot be read"):
        stage(tmp_path)
    path.write_text('{"format": ' + "[" * 100_000)
    with pytest.raises(StageError, match=r"cannot be read: .*nested too deeply"):
        stage(tmp_path)
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(StageError, match="format 99"):
        stage(tmp_path)


def test_a_setting_is_read_by_its_key_and_type(tmp_path: Path) -> None:
    made = build(stage(tmp_path, config={"embed": {"dim": 8}}))
    assert made.setting("embed.dim", int) == 8
    for key, kind in (("embed.dim", str), ("embed.width", int)):
        with pytest.raises(StageError, match=rf"the manifest of embed has {key}=.*\n.*{kind.__name__}\n.*rebuild=true"):
            made.setting(key, kind)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_files_have_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        made = stage(tmp_path)
        with made.building() as folder:
            private = folder / "weights.safetensors"
            private.touch(mode=0o600)
    finally:
        os.umask(before)
    assert private.stat().st_mode & 0o777 == 0o640


def test_a_text_takes_the_place_of_another_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    path = tmp_path / "counts.json"
    write_atomically(path, "before")
    monkeypatch.setattr("trialign.files.os.fsync", lost)
    with pytest.raises(OSError, match="the disk is gone"):
        write_atomically(path, "after")
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EDQUOT, "Der zugewiesene Plattenplatz ist ausgeschöpft"),  # in any language
        OSError("76800 requested and 38880 written"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_whichever_library_meets_it(tmp_path: Path, error: Exception) -> None:
    full = stage(tmp_path)
    with pytest.raises(StageError, match=r"the disk is full, .*embed"), full.building():
        raise error
    assert not stage(tmp_path).finished


def test_what_rounds_sums_otherwise_is_recorded_and_no_part_of_the_hash(tmp_path: Path) -> None:
    found = [build(stage(tmp_path / str(n), recorded={"runtime.threads": n})) for n in (1, 2)]
    assert [manifest.executions[0]["settings"] for manifest in found] == [
        {"runtime.threads": 1},
        {"runtime.threads": 2},
    ]
    assert found[0].executions[0]["machine"]["processor"]
    assert found[0].hash == found[1].hash
    assert found[0].config == found[1].config


def test_a_finished_stage_that_was_executed_otherwise_is_skipped_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(stage(tmp_path, recorded={"runtime.threads": 1}))
    assert stage(tmp_path, recorded={"runtime.threads": 1}).finished
    assert not caplog.records
    assert stage(tmp_path, recorded={"runtime.threads": 2}).finished
    assert "keeps the numbers it was made with: runtime.threads 1 -> 2" in caplog.text


def test_a_manifest_from_before_executions_were_recorded_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(stage(tmp_path))
    path = tmp_path / "embed" / MANIFEST
    record = json.loads(path.read_text())
    del record["executions"]
    path.write_text(json.dumps(record))
    assert stage(tmp_path, recorded={"runtime.threads": 2}).finished
    assert not caplog.records


@pytest.mark.parametrize(("keep", "told"), [(["half.bin"], [1, 2]), ([], [2])])
def test_executions_are_those_of_which_something_is_left(tmp_path: Path, keep: list[str], told: list[int]) -> None:
    for threads in (1, 1, 2):
        made = stage(tmp_path, recorded={"runtime.threads": threads})
        with contextlib.suppress(KeyboardInterrupt), made.building(keep) as folder:
            (folder / "half.bin").write_text("half")
            raise KeyboardInterrupt
    made = stage(tmp_path, recorded={"runtime.threads": 2})
    with made.building(keep):
        pass
    assert [found["settings"]["runtime.threads"] for found in made.read().executions] == told


def test_settings_that_are_refused_are_none_of_the_run(tmp_path: Path) -> None:
    """Red: a mistyped width, refused once, is what the next command takes."""
    stage = Stage.open("embed", tmp_path / "embed", {"dim": 3})
    with pytest.raises(ConfigError), stage.building():
        raise ConfigError("dim=3", rule="an even one", remedy="set dim=4")
    assert settings_of(stage.folder, attempts=True) is None


def test_a_file_that_was_cut_short_is_named_with_its_sizes(tmp_path: Path) -> None:
    build(stage(tmp_path), "v" * 2000)
    (tmp_path / "embed" / "vectors.bin").write_bytes(bytes(7))
    with pytest.raises(StageError, match=r"lacks 1 of the files .* vectors.bin \(7 of 2,000 bytes\)"):
        stage(tmp_path)
    assert not stage(tmp_path, rebuild=True).finished
