"""The record that makes a stage finished: `manifest.json`, written last and atomically.

A stage owns one folder of a run. As long as the folder holds no manifest, nothing in it counts: a stage that was killed
half-way is found by what is missing. The manifest says what made the folder (configuration, seed, inputs by hash, code
revision, versions) and what is in it (files by sha256, counts), so that a second run can skip it, and a changed one can
say what changed.

Two hashes carry the identity. `hash` covers the files a stage wrote; a later stage records it of every stage it read.
`lineage` carries those records on, so that two inputs made from different catalogues are noticed however far
downstream they meet.

Beside the hashes stand the executions: settings that are no part of the identity but can change the numbers, and the
machine. They neither rebuild nor refuse; a comparison of runs shows where they differ.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from trialign.errors import ConfigError, DataError, StageError, TrialignError
from trialign.execution import machine
from trialign.foreign import parse_json
from trialign.lock import HeldError, is_lock, living_owner, locked
from trialign.progress import BEAT, Intervals, paced, telling

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
"""What a stage in training goes on from; no part of what the stage makes, it goes when the manifest is there."""
MACHINE = "machine.csv"
"""How fast a machine was: kept in a stage's folder, but no part of what the stage made."""
_LAUNCH = ".launch"
_ATTEMPT = ".attempt.json"
_LOOK, _OWNERLESS = 0.5, 4
"""Seconds between two looks for the manifest, and after how many without an owner the first rank counts as gone."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_VERSIONED = (
    "torch",
    "transformers",
    "pytorch-lightning",
    "deepspeed",
    "open-clip-torch",
    "duckdb",
    "pyarrow",
    "numpy",
)


class FirstRankLostError(StageError):
    """The first of several ranks ended before it had finished the stage; another attempt may."""

    exit_code = 70


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself; see the module's docstring."""

    stage: str
    hash: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    lineage: dict[str, str]
    sources: dict[str, dict[str, Any]]
    counts: dict[str, Any]
    files: dict[str, dict[str, Any]]
    seconds: float
    created: str
    revision: str
    versions: dict[str, str]
    format: int = FORMAT
    executions: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    """`{settings, machine}` of the process that finished the stage, last, and of killed ones that it went on from."""

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read the manifest of a finished stage.

        Raises:
            StageError: the folder holds no manifest (never finished), or one of an unknown format.
        """
        path = folder / MANIFEST
        if not path.exists():
            verb = folder.parent.name if folder.parent.name == "evaluate" else folder.name
            raise StageError(
                f"{folder} is not a finished stage",
                rule=f"a finished stage holds {MANIFEST}, written last",
                remedy=f"run `trialign {verb}` for that run first, or name another with from.{verb}=DIR",
            )
        try:
            record = parse_json(path.read_text())
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}")
            return Manifest(**record)
        except (ValueError, KeyError, TypeError) as cause:
            raise StageError(
                f"{path} cannot be read: {cause}",
                rule=f"a manifest is JSON of format {FORMAT}",
                remedy="delete that stage's folder and run it again",
            ) from cause

    def not_whole(self, folder: Path) -> list[str]:
        """Return what is gone of the files that the stage was finished with, or has another size, as one is told."""
        sizes = {name: record["bytes"] for name, record in self.files.items() if Path(name).name != MACHINE}
        found = {name: _size_of(folder / name) for name in sizes}
        return [
            name if size is None else f"{name} ({size:,} of {sizes[name]:,} bytes)"
            for name, size in found.items()
            if size != sizes[name]
        ]


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
        self._lineage = _merge_lineages(self.name, self.inputs, manifests)
        self._seen = _bytes_of(self.folder / MANIFEST)
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
        _make(self.folder)
        with locked(self.folder):
            if _bytes_of(self.folder / MANIFEST) != self._seen:
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
                    with _full_disk_told(self.folder):
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
        _make(self.folder)
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
        if changes := _told(before, json.loads(json.dumps(self._identity()))):
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
        changes = _told(before.config, self.config)
        recorded = {verb: reference["hash"] for verb, reference in before.inputs.items()}
        changes += [f"input {verb} is another one" for verb, _, _ in _differences(recorded, self._input_hashes)]
        for role in sorted(before.sources.keys() | self.sources.keys()):
            old, path = before.sources.get(role), self.sources.get(role)
            if old is None or path is None or not _same_file(path, old):
                changes.append(f"source {role} has other bytes")
        return changes

    def _tell_execution(self, before: Manifest) -> None:
        """Say where a finished stage was made with other settings of those that are recorded; its numbers stay."""
        made = before.executions[-1]["settings"] if before.executions else self.recorded
        if changes := _told(made, json.loads(json.dumps(self.recorded))):
            log.warning("%s is finished and keeps the numbers it was made with: %s", self.folder, "; ".join(changes))

    def _write(self, seconds: float) -> None:
        _open_to_the_umask(self.folder)
        made = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not self._is_beside(path)]
        files = {
            str(path.relative_to(self.folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paced(made, "files hashed")
        }
        manifest = Manifest(
            stage=self.name,
            hash=_digest({name: record["sha256"] for name, record in files.items() if Path(name).name != MACHINE}),
            config=self.config,
            inputs={
                verb: {"path": str(self.inputs[verb]), "hash": found} for verb, found in self._input_hashes.items()
            },
            lineage=self._lineage,
            sources={role: _describe(path) for role, path in self.sources.items()},
            counts=self.counts,
            files=files,
            seconds=round(seconds, 3),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            revision=code_revision(),
            versions=_versions(),
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


def _bytes_of(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


def _size_of(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.stat().st_size
    return None


def disk_is_full(cause: Exception) -> bool:
    """Tell whether a write failed for want of room, whichever library says so: some keep no error number."""
    if getattr(cause, "errno", None) in _NO_ROOM:
        return True
    return any(words in str(cause) for words in ("No space left", "File too large", "Disk quota exceeded")) or (
        isinstance(cause, OSError) and re.search(r"\d+ requested and \d+ written", str(cause)) is not None
    )


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old content or all of the new one, power cut included."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys, e.g. `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _launch() -> str:
    """Return what only the ranks of one srun share, "" outside Slurm."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names) if "SLURM_STEP_ID" in os.environ else ""


@cache
def code_revision() -> str:
    """Return the git revision of the running code, `-dirty` if it was edited, or `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    ask = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("trialign", *_VERSIONED):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _merge_lineages(name: str, inputs: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> dict[str, str]:
    merged: dict[str, str] = {}
    told_by: dict[str, str] = {}

    def place(verb: str, ancestor: str) -> str:
        folder = inputs[verb] if verb == ancestor else manifests[verb].inputs.get(ancestor, {}).get("path", "another")
        return f"{verb} is {folder}" if verb == ancestor else f"{inputs[verb]} was made from {folder}"

    for verb, found in manifests.items():
        for ancestor, digest in {**found.lineage, verb: found.hash}.items():
            if merged.setdefault(ancestor, digest) != digest:
                other = told_by[ancestor]
                raise StageError(
                    f"{name} would mix two different '{ancestor}' stages: {place(other, ancestor)} "
                    f"({merged[ancestor][:12]}), {place(verb, ancestor)} ({digest[:12]})",
                    rule="all inputs of a stage descend from the same catalogue and semantic IDs",
                    remedy=f"point from.{other} and from.{verb} at stages of one lineage; for newer data make what "
                    f"comes after {ancestor} again in a new run: assign.extend=OLD keeps the IDs of known items",
                )
            told_by.setdefault(ancestor, verb)
    return merged


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    missing = "(absent)"
    pairs = ((key, old.get(key, missing), new.get(key, missing)) for key in sorted(old.keys() | new.keys()))
    return [(key, before, after) for key, before, after in pairs if before != after]


def _told(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    pairs = _differences(flatten(old), flatten(new))
    return [f"{key} {json.dumps(before)} -> {json.dumps(after)}" for key, before, after in pairs]


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


def require_same_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what `Stage.prepare` will refuse, as far as settings alone show it: its inputs need not be there yet.

    Args:
        folder: a stage's.
        config: as `Stage` takes it.

    Raises:
        StageError: the stage is finished, or a training of it was killed, with other settings.
    """
    if (folder / MANIFEST).exists():
        if changes := _told(Manifest.read(folder).config, config):
            raise _finished_otherwise(folder, changes)
        return
    attempt = folder / _ATTEMPT
    if attempt.exists() and any((folder / CHECKPOINTS).glob("step-*.json")):
        # As JSON has it: a tuple comes back as a list.
        before, now = _read_attempt(attempt)[0]["config"], json.loads(json.dumps(config))
        if changes := _told({"config": before}, {"config": now}):
            raise _begun_otherwise(folder, changes)


def _describe(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"path": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}


def _same_file(path: Path, before: Mapping[str, Any]) -> bool:
    if not path.exists():
        raise DataError(
            f"{path} does not exist", rule="the files a finished stage was made from stay readable", remedy="restore it"
        )
    status = path.stat()
    # Same size and time: not read again. A log of a terabyte must not be hashed to find that nothing happened.
    if (status.st_size, status.st_mtime_ns) == (before["bytes"], before["mtime_ns"]):
        return True
    return bool(status.st_size == before["bytes"] and sha256_of(path) == before["sha256"])


def _open_to_the_umask(folder: Path) -> None:
    """Give every file the mode a plain `open` would: safetensors writes for its owner alone, and runs are shared."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not is_lock(path):  # others' looks at the lock come and go
            path.chmod(0o666 & ~umask)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise StageError(
            f"{folder} cannot be made: {cause}",
            rule="a run directory is a writable folder",
            remedy="choose another run=DIR, or mend its permissions",
        ) from cause


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except TrialignError:
        raise
    except Exception as cause:
        if not disk_is_full(cause):
            raise
        raise StageError(
            f"the disk is full, or a limit of size reached, while writing below {folder}: {str(cause).splitlines()[0]}",
            rule="a stage has room for what it writes",
            remedy="free some space and run the same command again; finished stages are skipped",
        ) from cause
