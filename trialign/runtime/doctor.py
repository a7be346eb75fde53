"""Report what this machine offers, as a table, and block the network to prove that nothing uses it.

A check never fails: it reports what is missing, and what that would be good for.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trialign.config.tracking import key_is_set, wandb_mode
from trialign.manifest import version_of

_GIB = 2**30
_LOCAL = ("127.", "::1", "localhost")


@dataclass(frozen=True)
class Finding:
    """A row of the table: what was checked, what was found, and an optional remark."""

    what: str
    found: str
    remark: str = ""


def examine(run: Path, constraints: Path | None) -> list[Finding]:
    """Return the table of what this machine offers.

    Args:
        run: where runs will be written.
        constraints: a file of pinned versions to compare with; None where none is at hand.
    """
    return [*_hardware(), *_software(), *_tools(), _disk(run), *_versions(constraints), *_network()]


@contextmanager
def refuse_network() -> Iterator[list[str]]:
    """Block every name lookup and every connection to another machine in this process, and list the attempts.

    Sockets of this machine (a file, loopback) stay open: ranks and helpers connect by them. A C library that opens its
    own sockets is not seen; on Linux `unshare --net` blocks these too.

    Yields:
        what was refused so far, as `connect HOST:PORT` or `look up HOST`.
    """
    refused: list[str] = []
    _listen()
    _guards.append(refused)
    try:
        yield refused
    finally:
        _guards.remove(refused)


_guards: list[list[str]] = []


@cache
def _listen() -> None:
    sys.addaudithook(_audit)  # once per process: Python cannot remove an audit hook


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _guards:
        return
    if event == "socket.getaddrinfo":
        host, what = arguments[0], "look up {}"
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if not isinstance(address, tuple):
            return  # a file
        host, what = address[0], f"connect {{}}:{address[1]}"
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if name.startswith(_LOCAL) or name in ("", "0.0.0.0", "::", socket.gethostname()):
        return
    _guards[-1].append(what.format(name))
    raise ConnectionRefusedError(f"no network in here: {_guards[-1][-1]}")


def _hardware() -> Iterator[Finding]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    yield Finding("processor", f"{len(os.sched_getaffinity(0))} cores for this process, {memory:.0f} GiB of memory")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
            yield Finding(f"GPU {number}", f"{found.name}, {found.total_memory / _GIB:.0f} GiB, {bf16}")
        yield Finding("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        yield Finding("GPU", "none that torch sees", f"torch {torch.__version__} is {built}; trains on CPU")
        fast = torch.cpu._is_avx512_bf16_supported()
        yield Finding(
            "bfloat16 on CPU",
            "AVX-512" + (", AMX" if torch.cpu._is_amx_tile_supported() else "") if fast else "imitated",
            "" if fast else "train.precision=bf16-mixed may be slower than 32-true",
        )


def _software() -> Iterator[Finding]:
    yield Finding("Python", platform.python_version(), "" if sys.version_info >= (3, 11) else "3.11 or newer is wanted")
    for package, purpose in (
        ("deepspeed", "runtime.strategy=zero1, zero2"),
        ("wandb", "tracking=wandb"),
        ("sentence-transformers", "embed/text=sentence_transformers"),
        ("pyspark", "prepare on Spark"),
    ):
        version = version_of(package)
        yield Finding(package, version or "not installed", "" if version else f"needed for {purpose} alone")


def _tools() -> Iterator[Finding]:
    for command, arguments, purpose in (
        ("sbatch", ["--version"], "submitting to Slurm"),
        ("java", ["-version"], "prepare on Spark"),
        ("nvidia-smi", ["--version"], "GPUs"),
    ):
        if shutil.which(command) is None:
            yield Finding(command, "not on PATH", f"needed for {purpose} alone")
            continue
        try:
            done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as cause:
            yield Finding(command, "does not answer", str(cause))
            continue
        lines = (done.stdout or done.stderr).strip().splitlines()
        told = lines[0] if lines else f"exit code {done.returncode}"
        yield Finding(command, *(("does not answer", told) if done.returncode else (told,)))


def _disk(run: Path) -> Finding:
    place = run.absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    remark = "" if os.access(place, os.W_OK) else "not writable: set run=DIR"
    return Finding(f"disk of {place}", f"{usage.free / _GIB:.0f} of {usage.total / _GIB:.0f} GiB free", remark)


def _versions(constraints: Path | None) -> Iterator[Finding]:
    if constraints is None:
        yield Finding("pinned versions", "no constraints.txt at hand", "it lies in the root of a checkout")
        return
    lines = [line.split("#")[0].strip() for line in constraints.read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if "==" in line)
    others = {name: version_of(name) for name, pin in pins.items() if version_of(name) not in (None, pin)}
    # A local label (+cpu, +cu130) is the same version, built for another machine.
    told = {name: found for name, found in others.items() if str(found).split("+")[0] != pins[name]}
    remark = "; ".join(f"{name} {found}, pinned {pins[name]}" for name, found in told.items())
    missing = [name for name in pins if version_of(name) is None]
    found = f"{len(pins) - len(told) - len(missing)} of {len(pins)} as pinned"
    yield Finding("pinned versions", found + (f", not installed: {', '.join(missing)}" if missing else ""), remark)


def _network() -> Iterator[Finding]:
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name) in ("1", "true")]
    yield Finding(
        "models by name",
        f"from the cache alone ({', '.join(offline)})" if offline else "may be fetched from the hub",
        "" if offline else "only where a config names one; HF_HUB_OFFLINE=1 forbids it",
    )
    yield Finding("W&B", f"{wandb_mode()}, where tracking=wandb asks for it", "" if key_is_set() else "no key is set")
