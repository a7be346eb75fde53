"""A stage's folder: opened and checked, built by one process or by several ranks, finished by its manifest."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trialign.errors import ConfigError, StageError
from trialign.execution import machine
from trialign.files import (
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
from trialign.lock import HeldError, is_lock, living_owner, locked
from trialign.manifest import (
    MACHINE,
    MANIFEST,
    Manifest,
    changes_of,
    code_revision,
    differences,
    merge_lineages,
    versions,
)
from trialign.progress import BEAT, Intervals, paced, telling

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""What a stage in training goes on from; no part of what the stage makes, it goes when the manifest is there."""
_LAUNCH = ".launch"
_ATTEMPT = ".attempt.json"
_LOOK, _OWNERLESS = 0.5, 4
"""Seconds between two looks for the manifest, and after how many without an owner the first rank counts as gone."""


class FirstRankLostError(StageError):
    """The first of several ranks ended before it had finished the stage; another attempt may."""

    exit_code = 70


@dataclass
class Stage:
    """One stage of one run: where it writes, what it depends on, whether it is done.

    Args:
        name: the verb, e.g. `quantize`.
        folder: the directory the stage owns.
        config: the fields that determine its numbers, and only those.
        recorded: fields beside them that can change the numbers all the same, dotted.
        inputs: finished stages it reads, by verb.
        sources: files from outside the run it reads, by role; their content is part of the stage's identity.
        counts: what the stage counted; goes into its manifest.
        finished: a valid manifest is there.
        built: this process wrote it.
        intervals: how often it tells how far it is.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    inputs: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    recorded: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    built: bool = False
    intervals: Intervals = field(default_factory=Intervals)

    def prepare(self, *, rebuild: bool) -> None:
        """Decide whether the stage is done already.

        Sets `finished` when a manifest made from the same configuration and inputs is there.

        Raises:
            StageError: it is finished, or a training of it was killed, but something changed and `rebuild` is False;
                an input is unfinished; or two inputs descend from different versions of one stage.
        """
        self._counted = 0
        manifests = {verb: Manifest.read(path) for verb, path in self.inputs.items()}
        self._input_hashes = {verb: found.hash for verb, found in manifests.items()}
        self._lineage = merge_lineages(self.name, self.inputs, manifests)
        self._seen = bytes_of(self.folder / MANIFEST)
        if self._seen is None:
            if not rebuild:
                self._refuse_to_clear_checkpoints()
            return
        before = Manifest.read(self.folder)
        changes = self._changes(before)
        gone = before.not_whole(self.folder)
        if gone and not rebuild:
            raise finished_and_gone(self.folder, gone, "add rebuild=true to make this stage again")
        if not changes and not gone:
            self.finished = True
            self._tell_execution(before)
            self._clear_checkpoints()  # an attempt may have been killed right behind its manifest
        elif not rebuild:
            raise _finished_otherwise(self.folder, changes)

    @contextmanager
    def building(self, keep: Sequence[str] = (), *, first: bool = True, patience: float = 3600.0) -> Iterator[Path]:
        """Hold the stage's lock, clear what an unfinished attempt left, and write the manifest if the block succeeds.

        Args:
            keep: names inside the folder that a killed attempt may hand on to this one (checkpoints, finished buckets).
                Leftovers are kept only if they were made by the same configuration and inputs.
            first: this process is the first of the ranks that build the stage together. The others only lend a hand:
                their process ends well once the manifest is there, and what comes after it is the first one's.
            patience: seconds that the others wait for it.

        Raises:
            HeldError: another process builds it, or has built it since `prepare` looked.
            FirstRankLostError: the first rank ended without a manifest, or took longer than the others' patience.
        """
        if not first:
            self._follow()
            with telling(self.name, None, self.intervals):
                yield self.folder
            self._stay(patience)
            sys.exit(0)
        make_folder(self.folder)
        with locked(self.folder):
            if bytes_of(self.folder / MANIFEST) != self._seen:
                raise HeldError(
                    f"{self.folder} was finished by another process meanwhile",
                    rule="a finished stage is never made twice",
                    remedy="give the command again: it takes what is there, or says what is different",
                )
            (self.folder / MANIFEST).unlink(missing_ok=True)
            self._seen = None
            attempt = self.folder / _ATTEMPT
            identity = json.loads(json.dumps(self._identity()))
            before, earlier = _read_attempt(attempt)
            same = before == identity
            goes_on = same and any((self.folder / name).exists() for name in keep)
            for child in self.folder.iterdir():
                if is_lock(child) or (same and child.name in keep):
                    continue
                shutil.rmtree(child) if child.is_dir() else child.unlink()
            now = {"settings": self.recorded, "machine": machine()}
            self._executions = [*(found for found in earlier if goes_on and found != now), now]
            write_atomically(attempt, json.dumps({**identity, "executions": self._executions}, sort_keys=True))
            write_atomically(self.folder / _LAUNCH, _launch())
            started = time.monotonic()
            with telling(self.name, self.folder, self.intervals, self._counted):
                try:
                    with full_disk_reported(self.folder):
                        yield self.folder
                except ConfigError:
                    if not goes_on:
                        # Settings that are refused are none of the run, whose settings the next command takes.
                        attempt.unlink()
                    raise
                attempt.unlink()
                (self.folder / _LAUNCH).unlink()
                self._write(time.monotonic() - started)
            self.finished = self.built = True
            self._clear_checkpoints()  # not before: until the manifest is there, an attempt may be killed

    @contextmanager
    def working_out(self) -> Iterator[None]:
        """Tell how far the block is as progress of the stage, before `building`: what it refuses costs nothing yet."""
        make_folder(self.folder)
        with telling(self.name, self.folder, self.intervals) as told:
            yield
        self._counted = told.number

    def _refuse_to_clear_checkpoints(self) -> None:
        """Refuse to begin anew where an attempt with other settings left a training that could go on.

        Raises:
            StageError: it did.
        """
        steps = sorted((self.folder / CHECKPOINTS).glob("step-*.json"))
        attempt = self.folder / _ATTEMPT
        if not steps or not attempt.exists():
            return
        before, _ = _read_attempt(attempt)
        if changes := changes_of(before, json.loads(json.dumps(self._identity()))):
            raise _begun_otherwise(self.folder, changes)

    def _follow(self) -> None:
        """Wait until the first rank of this srun has cleared the folder; other launchers start the others later."""
        launch = self.folder / _LAUNCH
        while _launch() and not (launch.exists() and launch.read_text() == _launch()):
            time.sleep(0.2)

    def _stay(self, patience: float) -> None:
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
                    remedy="look into the first rank's log; the same command goes on from the newest checkpoint",
                )
            time.sleep(_LOOK)

    def _clear_checkpoints(self) -> None:
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def read(self) -> Manifest:
        """Return the manifest of this (finished) stage."""
        return Manifest.read(self.folder)

    def _identity(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "inputs": self._input_hashes,
            "sources": {k: str(v) for k, v in self.sources.items()},
        }

    def _is_beside(self, path: Path) -> bool:
        """Tell what stands beside what a stage makes (who makes it, how far it is, what it goes on from)."""
        top = path.relative_to(self.folder).parts[0]
        return is_lock(path) or top in (BEAT, f"{BEAT}.partial", CHECKPOINTS)

    def _changes(self, before: Manifest) -> list[str]:
        changes = changes_of(before.config, self.config)
        recorded = {verb: reference["hash"] for verb, reference in before.inputs.items()}
        changes += [f"input {verb} is another one" for verb, _, _ in differences(recorded, self._input_hashes)]
        for role in sorted(before.sources.keys() | self.sources.keys()):
            old, path = before.sources.get(role), self.sources.get(role)
            if old is None or path is None or not is_same_file(path, old):
                changes.append(f"source {role} has other bytes")
        return changes

    def _tell_execution(self, before: Manifest) -> None:
        """Say where a finished stage was made with other settings of those that are recorded; its numbers stay."""
        made = before.executions[-1]["settings"] if before.executions else self.recorded
        if changes := changes_of(made, json.loads(json.dumps(self.recorded))):
            log.warning("%s is finished and keeps the numbers it was made with: %s", self.folder, "; ".join(changes))

    def _write(self, seconds: float) -> None:
        open_to_the_umask(self.folder)
        made = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not self._is_beside(path)]
        files = {
            str(path.relative_to(self.folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paced(made, "files hashed")
        }
        manifest = Manifest(
            stage=self.name,
            hash=digest_of({name: record["sha256"] for name, record in files.items() if Path(name).name != MACHINE}),
            config=self.config,
            inputs={
                verb: {"path": str(self.inputs[verb]), "hash": found} for verb, found in self._input_hashes.items()
            },
            lineage=self._lineage,
            sources={role: describe_file(path) for role, path in self.sources.items()},
            counts=self.counts,
            files=files,
            seconds=round(seconds, 3),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            revision=code_revision(),
            versions=versions(),
            executions=self._executions,
        )
        write_atomically(self.folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def _read_attempt(path: Path) -> tuple[dict[str, Any], list[dict[str, dict[str, Any]]]]:
    """Return the identity of the attempt that was broken off, {} where there is none, and its executions."""
    identity = json.loads(path.read_text()) if path.exists() else {}
    return identity, identity.pop("executions", [])


def settings_of(folder: Path, *, attempts: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return what a stage was made with: its `config`, and the settings recorded beside it; None without a record.

    Args:
        folder: a stage's.
        attempts: whether one that was killed counts where nothing is finished.
    """
    if (folder / MANIFEST).exists():
        manifest = Manifest.read(folder)
        config, executions = manifest.config, manifest.executions
    elif attempts and (folder / _ATTEMPT).exists():
        identity, executions = _read_attempt(folder / _ATTEMPT)
        config = identity["config"]
    else:
        return None
    return config, executions[-1]["settings"] if executions else {}


def require_same_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what `Stage.prepare` will refuse, as far as settings alone show it: its inputs need not be there yet.

    Args:
        folder: a stage's.
        config: as `Stage` takes it.

    Raises:
        StageError: the stage is finished, or a training of it was killed, with other settings.
    """
    if (folder / MANIFEST).exists():
        if changes := changes_of(Manifest.read(folder).config, config):
            raise _finished_otherwise(folder, changes)
        return
    attempt = folder / _ATTEMPT
    if attempt.exists() and any((folder / CHECKPOINTS).glob("step-*.json")):
        # As JSON has it: a tuple comes back as a list.
        before, now = _read_attempt(attempt)[0]["config"], json.loads(json.dumps(config))
        if changes := changes_of({"config": before}, {"config": now}):
            raise _begun_otherwise(folder, changes)


def _launch() -> str:
    """Return what only the ranks of one srun share, "" outside Slurm."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names) if "SLURM_STEP_ID" in os.environ else ""


def _finished_otherwise(folder: Path, changes: Sequence[str]) -> StageError:
    return StageError(
        f"{folder} was finished with other settings: " + "; ".join(changes),
        rule="a finished stage is never changed silently",
        remedy="undo the change, choose another run=DIR, or add rebuild=true to make this stage again",
    )


def finished_and_gone(folder: Path, gone: Sequence[str], otherwise: str) -> StageError:
    """Return the refusal of a finished stage some of whose files are gone or cut short."""
    return StageError(
        f"{folder} lacks {len(gone)} of the files it was finished with: {', '.join(gone[:3])}",
        rule=f"a finished stage holds every file that its {MANIFEST} lists",
        remedy=f"restore them, or {otherwise}",
    )


def _begun_otherwise(folder: Path, changes: Sequence[str]) -> StageError:
    steps = sorted((folder / CHECKPOINTS).glob("step-*.json"))
    return StageError(
        f"{folder} holds {steps[-1].stem} of a training with other settings: " + "; ".join(changes),
        rule="a training goes on with the settings, the model and the data that it began with",
        remedy="undo the change, choose another run=DIR, or add rebuild=true to begin anew",
    )
