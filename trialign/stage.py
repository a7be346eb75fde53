"""A stage's folder: opened and checked, built by one process or by several ranks, finished by its manifest."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trialign.errors import ConfigError, StageError
from trialign.execution import machine
from trialign.files import (
    FileRecord,
    bytes_of,
    describe_file,
    digest_of,
    full_disk_reported,
    is_same_file,
    make_folder,
    open_to_the_umask,
    sha256_of,
    write_atomically,
)
from trialign.foreign import Json
from trialign.lock import HeldError, is_lock, living_owner, locked
from trialign.manifest import (
    MACHINE,
    MANIFEST,
    Execution,
    Manifest,
    changes_of,
    code_revision,
    differences,
    merge_lineages,
    versions,
)
from trialign.progress import BEAT, Intervals, telling, tracked

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""What a stage in training continues from; no part of what the stage makes, it goes when the manifest is there."""
_LAUNCH = ".launch"
_ATTEMPT = ".attempt.json"
_LOOK, _OWNERLESS = 0.5, 4
"""Seconds between two looks for the manifest, and after how many without an owner the first rank counts as gone."""


class FirstRankLostError(StageError):
    """The first of several ranks ended before it finished the stage; another attempt may succeed."""

    exit_code = 70


@dataclass(frozen=True)
class _Attempt:
    """The inputs and machines of an unfinished build: `.attempt.json`, which is removed once the manifest exists.

    Args:
        identity: config, inputs and sources, as JSON has them.
        executions: `{settings, machine}` of the processes that built what is there, the present one last.
    """

    identity: dict[str, Json]
    executions: list[Execution]

    @property
    def config(self) -> dict[str, Json]:
        """The settings of the attempt."""
        config = self.identity["config"]
        assert isinstance(config, dict)
        return config

    @staticmethod
    def read(folder: Path) -> _Attempt | None:
        """Read the record of an unfinished attempt in a stage's folder, None if there is none."""
        record = bytes_of(folder / _ATTEMPT)
        if record is None:
            return None
        identity = json.loads(record)
        executions = identity.pop("executions", [])
        return _Attempt(identity, executions)

    def write(self, folder: Path) -> None:
        write_atomically(folder / _ATTEMPT, self._text())

    def write_first(self, folder: Path) -> bool:
        """Write the record unless there is one; of several processes one succeeds. Return whether this one did."""
        aside = folder / f"{_ATTEMPT}.{platform.node()}-{os.getpid()}"
        write_atomically(aside, self._text())
        try:
            os.link(aside, folder / _ATTEMPT)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def _text(self) -> str:
        return json.dumps({**self.identity, "executions": self.executions}, sort_keys=True)


@dataclass
class Stage:
    """An opened stage of a run: its inputs are finished, and `finished` says whether it is itself.

    Args:
        name: the verb, e.g. `quantize`.
        folder: the directory the stage owns.
        config: the fields that determine its numbers, and only those.
        inputs: the folders of the finished stages it reads, by verb.
        sources: files from outside the run it reads, by role; their content is part of the stage's identity.
        recorded: fields next to `config` that can change the numbers all the same, dotted.
        lineage: the hash of every stage it descends from, its inputs among them, by verb.
        manifest_before: the bytes of the manifest that was there when it was opened; None without one.
        intervals: how often it reports its progress.
        finished: a valid manifest is there.
        built: this process wrote it.
        counts: what the stage counted; goes into its manifest.
        advances: how much progress it reported before it was built.
        worked: seconds that this process worked on it before it was built.
    """

    name: str
    folder: Path
    config: dict[str, Json]
    inputs: dict[str, Path]
    sources: dict[str, Path]
    recorded: dict[str, Json]
    lineage: dict[str, str]
    manifest_before: bytes | None
    intervals: Intervals
    finished: bool = False
    built: bool = False
    counts: dict[str, Json] = field(default_factory=dict)
    advances: int = 0
    worked: float = 0.0

    @staticmethod
    def open(
        name: str,
        folder: Path,
        config: dict[str, Json],
        *,
        inputs: Mapping[str, Path] | None = None,
        sources: Mapping[str, Path] | None = None,
        recorded: Mapping[str, Json] | None = None,
        intervals: Intervals | None = None,
        rebuild: bool = False,
    ) -> Stage:
        """Check a stage's inputs and what its folder holds, and return the stage; the arguments are its attributes.

        It is `finished` if its folder holds a manifest made from the same configuration, inputs and sources.

        Raises:
            StageError: it is finished, or a training of it was killed, but something changed and `rebuild` is False;
                an input is unfinished; or two inputs descend from different versions of one stage.
        """
        inputs = dict(inputs or {})
        manifests = {verb: Manifest.read(path) for verb, path in inputs.items()}
        stage = Stage(
            name=name,
            folder=folder,
            config=config,
            inputs=inputs,
            sources=dict(sources or {}),
            recorded=dict(recorded or {}),
            lineage=merge_lineages(name, inputs, manifests),
            manifest_before=bytes_of(folder / MANIFEST),
            intervals=intervals or Intervals(),
        )
        if stage.manifest_before is not None:
            stage._compare(Manifest.read(folder), rebuild=rebuild)
        elif not rebuild:
            stage._refuse_to_clear_checkpoints()
        return stage

    def read(self) -> Manifest:
        """Return the manifest of this (finished) stage."""
        return Manifest.read(self.folder)

    @contextmanager
    def building(self, keep: Sequence[str] = (), *, first: bool = True, patience: float = 3600.0) -> Iterator[Path]:
        """Hold the stage's lock, clear what an unfinished attempt left, and write the manifest if the block succeeds.

        Args:
            keep: names inside the folder that a killed attempt may hand on to this one (checkpoints, finished buckets).
                Leftovers are kept only if they were made by the same configuration and inputs.
            first: this process is the first of the ranks that build the stage together. The others enter once it has
                cleared the folder, and leave once it has written the manifest.
            patience: seconds that the others wait for the manifest.

        Raises:
            HeldError: another process builds it, or has built it since it was opened.
            FirstRankLostError: the first rank ended without a manifest, or took longer than the others' patience.
        """
        if not first:
            self._wait_for_cleared_folder()
            with telling(self.name, None, self.intervals):
                yield self.folder
            self._wait_for_manifest(patience)
            return
        make_folder(self.folder)
        with locked(self.folder):
            attempt, goes_on = self._begin(keep)
            started = time.monotonic()
            with telling(self.name, self.folder, self.intervals, self.advances):
                try:
                    with full_disk_reported(self.folder):
                        yield self.folder
                except ConfigError:
                    if not goes_on:
                        # Refused settings must not be recorded: the next command takes the run's settings.
                        (self.folder / _ATTEMPT).unlink()
                    raise
                (self.folder / _ATTEMPT).unlink()
                (self.folder / _LAUNCH).unlink()
                self._write_manifest(attempt.executions, self.worked + time.monotonic() - started)
            self.finished = self.built = True
            self._clear_checkpoints()  # not before: until the manifest is there, an attempt may be killed

    @contextmanager
    def working_out(self) -> Iterator[None]:
        """Report the block as progress of the stage, before `building`: a refusal in it discards no earlier work."""
        make_folder(self.folder)
        with telling(self.name, self.folder, self.intervals) as told:
            yield
        self.advances = told.number

    @contextmanager
    def adding(self, *, anew: bool) -> Iterator[Path]:
        """Make parts of the stage next to other processes, under no lock; `building(keep=...)` joins them afterwards.

        Who comes first records what the parts are made from. A part is a file that is written atomically, so that one
        that is there is whole, whoever made it.

        Args:
            anew: clear the folder first; only for a process that makes all parts alone.

        Raises:
            StageError: the parts in the folder are made from something else.
            HeldError: the stage was finished since it was opened.
        """
        make_folder(self.folder)
        if anew:
            with locked(self.folder):
                self._begin(keep=())
        mine = _Attempt(self._identity(), [{"settings": self.recorded, "machine": machine()}])
        first = mine if mine.write_first(self.folder) else _Attempt.read(self.folder)
        if first is None:
            raise _finished_meanwhile(self.folder)
        if changes := changes_of(first.identity, mine.identity):
            raise StageError(
                f"{self.folder} holds parts of another {self.name}: " + "; ".join(changes),
                rule="all parts of a folder are made by the same settings from the same stages",
                remedy="undo the change, name another folder, or delete this one",
            )
        started = time.monotonic()
        with telling(self.name, self.folder, self.intervals) as told, full_disk_reported(self.folder):
            yield self.folder
        self.advances, self.worked = told.number, time.monotonic() - started

    def _compare(self, before: Manifest, *, rebuild: bool) -> None:
        """Compare with the manifest in the folder: mark the stage finished, refuse it, or leave it to be rebuilt.

        Raises:
            StageError: it was made from something else, or lost a file, and `rebuild` is False.
        """
        changes, gone = self._changes(before), before.not_whole(self.folder)
        if gone and not rebuild:
            raise finished_and_gone(self.folder, gone, "add rebuild=true to make this stage again")
        if not changes and not gone:
            self.finished = True
            self._tell_execution(before)
            self._clear_checkpoints()  # an attempt may have been killed right after writing its manifest
        elif not rebuild:
            raise _finished_otherwise(self.folder, changes)

    def _begin(self, keep: Sequence[str]) -> tuple[_Attempt, bool]:
        """Clear the folder of all but what may be kept; return the attempt that begins, and whether it continues.

        Raises:
            HeldError: the stage was finished since it was opened.
        """
        if bytes_of(self.folder / MANIFEST) != self.manifest_before:
            raise _finished_meanwhile(self.folder)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.manifest_before = None
        before, identity = _Attempt.read(self.folder), self._identity()
        same = before is not None and before.identity == identity
        goes_on = same and any((self.folder / name).exists() for name in keep)
        for child in self.folder.iterdir():
            if is_lock(child) or (same and child.name in keep):
                continue
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        now: Execution = {"settings": self.recorded, "machine": machine()}
        earlier = before.executions if before is not None and goes_on else []
        attempt = _Attempt(identity, [*(found for found in earlier if found != now), now])
        attempt.write(self.folder)
        write_atomically(self.folder / _LAUNCH, _launch())
        return attempt, goes_on

    def _refuse_to_clear_checkpoints(self) -> None:
        """Refuse to start over if an attempt with other settings left checkpoints that a training could resume.

        Raises:
            StageError: it did.
        """
        steps = sorted((self.folder / CHECKPOINTS).glob("step-*.json"))
        before = _Attempt.read(self.folder)
        if steps and before is not None and (changes := changes_of(before.identity, self._identity())):
            raise _begun_otherwise(self.folder, changes)

    def _wait_for_cleared_folder(self) -> None:
        """Wait until the first rank of this srun has cleared the folder; other launchers start the others later."""
        launch = self.folder / _LAUNCH
        while _launch() and not (launch.exists() and launch.read_text() == _launch()):
            time.sleep(0.2)

    def _wait_for_manifest(self, patience: float) -> None:
        """Wait for the first rank's manifest: launchers end the ranks that are left soon after one has ended well."""
        end, ownerless = time.monotonic() + patience, 0
        while not (self.folder / MANIFEST).exists():
            # More than one look: on a file system of many machines a lock may be seen to go before a manifest to come.
            ownerless = 0 if living_owner(self.folder) else ownerless + 1
            if ownerless == _OWNERLESS or time.monotonic() > end:
                what = "ended without" if ownerless == _OWNERLESS else f"took more than {patience:.0f} s to write"
                raise FirstRankLostError(
                    f"the first rank {what} {self.folder / MANIFEST}",
                    rule="the other ranks stay until the first has finished the stage (runtime.patience_minutes)",
                    remedy="look into the first rank's log; the same command continues from the newest checkpoint",
                )
            time.sleep(_LOOK)

    def _clear_checkpoints(self) -> None:
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _identity(self) -> dict[str, Json]:
        sources = {role: str(path) for role, path in self.sources.items()}
        return _as_json({"config": self.config, "inputs": self._input_hashes(), "sources": sources})

    def _input_hashes(self) -> dict[str, str]:
        return {verb: self.lineage[verb] for verb in self.inputs}

    def _is_beside(self, path: Path) -> bool:
        """Return whether a file is not an output of the stage, but a lock, a heartbeat or a checkpoint."""
        top = path.relative_to(self.folder).parts[0]
        return is_lock(path) or top in (BEAT, f"{BEAT}.partial", CHECKPOINTS)

    def _changes(self, before: Manifest) -> list[str]:
        changes = changes_of(before.config, self.config)
        recorded = {verb: reference["hash"] for verb, reference in before.inputs.items()}
        changes += [f"input {verb} is another one" for verb, _, _ in differences(recorded, self._input_hashes())]
        for role in sorted(before.sources.keys() | self.sources.keys()):
            old, path = before.sources.get(role), self.sources.get(role)
            if old is None or path is None or not is_same_file(path, old):
                changes.append(f"source {role} has other bytes")
        return changes

    def _tell_execution(self, before: Manifest) -> None:
        """Warn if a finished stage was made with other recorded settings; its numbers stay."""
        made = before.executions[-1]["settings"] if before.executions else self.recorded
        if changes := changes_of(made, _as_json(self.recorded)):
            log.warning("%s is finished and keeps the numbers it was made with: %s", self.folder, "; ".join(changes))

    def _write_manifest(self, executions: list[Execution], seconds: float) -> None:
        open_to_the_umask(self.folder)
        made = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not self._is_beside(path)]
        files: dict[str, FileRecord] = {
            str(path.relative_to(self.folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in tracked(made, "files hashed")
        }
        manifest = Manifest(
            stage=self.name,
            hash=digest_of({name: record["sha256"] for name, record in files.items() if Path(name).name != MACHINE}),
            config=self.config,
            inputs={verb: {"path": str(path), "hash": self.lineage[verb]} for verb, path in self.inputs.items()},
            lineage=self.lineage,
            sources={role: describe_file(path) for role, path in self.sources.items()},
            counts=self.counts,
            files=files,
            seconds=round(seconds, 3),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            revision=code_revision(),
            versions=versions(),
            executions=executions,
        )
        write_atomically(self.folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def settings_of(folder: Path, *, attempts: bool) -> tuple[dict[str, Json], dict[str, Json]] | None:
    """Return the settings that a stage was made with: its `config` and its recorded ones; None without a record.

    Args:
        folder: a stage's.
        attempts: whether one that was killed counts where nothing is finished.
    """
    if (folder / MANIFEST).exists():
        manifest = Manifest.read(folder)
        config, executions = manifest.config, manifest.executions
    elif attempts and (attempt := _Attempt.read(folder)) is not None:
        config, executions = attempt.config, attempt.executions
    else:
        return None
    return config, executions[-1]["settings"] if executions else {}


def require_same_settings(folder: Path, config: Mapping[str, Json]) -> None:
    """Refuse other settings, as `Stage.open` will, before the inputs of the stage need to exist.

    Args:
        folder: a stage's.
        config: as `Stage.open` takes it.

    Raises:
        StageError: the stage is finished, or a training of it was killed, with other settings.
    """
    if (folder / MANIFEST).exists():
        if changes := changes_of(Manifest.read(folder).config, config):
            raise _finished_otherwise(folder, changes)
        return
    attempt = _Attempt.read(folder)
    if attempt is not None and any((folder / CHECKPOINTS).glob("step-*.json")):
        before, now = attempt.config, _as_json(config)
        if changes := changes_of({"config": before}, {"config": now}):
            raise _begun_otherwise(folder, changes)


def _as_json(value: Mapping[str, Json]) -> dict[str, Json]:
    """Return a mapping as it comes back from JSON: a tuple as a list."""
    found: dict[str, Json] = json.loads(json.dumps(value))
    return found


def _launch() -> str:
    """Return an identifier of the current srun launch, equal on its ranks only; "" outside Slurm."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names) if "SLURM_STEP_ID" in os.environ else ""


def _finished_otherwise(folder: Path, changes: Sequence[str]) -> StageError:
    return StageError(
        f"{folder} was finished with other settings: " + "; ".join(changes),
        rule="a finished stage is never changed silently",
        remedy="undo the change, choose another run=DIR, or add rebuild=true to make this stage again",
    )


def finished_and_gone(folder: Path, gone: Sequence[str], otherwise: str) -> StageError:
    """Return the error for a finished stage with missing or truncated files."""
    return StageError(
        f"{folder} lacks {len(gone)} of the files it was finished with: {', '.join(gone[:3])}",
        rule=f"a finished stage holds every file that its {MANIFEST} lists",
        remedy=f"restore them, or {otherwise}",
    )


def _finished_meanwhile(folder: Path) -> HeldError:
    return HeldError(
        f"{folder} was finished by another process meanwhile",
        rule="a finished stage is never made twice",
        remedy="give the command again: it takes what is there, or says what is different",
    )


def _begun_otherwise(folder: Path, changes: Sequence[str]) -> StageError:
    steps = sorted((folder / CHECKPOINTS).glob("step-*.json"))
    return StageError(
        f"{folder} holds {steps[-1].stem} of a training with other settings: " + "; ".join(changes),
        rule="a training continues with the settings, the model and the data that it began with",
        remedy="undo the change, choose another run=DIR, or add rebuild=true to begin anew",
    )
