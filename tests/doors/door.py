"""A door: a mistake of a newcomer, what is said to it, and the way out as the words show it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

_EVENTS = "user,item,time\n" + "".join(
    f"u{user},i{(user * 3 + step * 5) % 8},{1_714_500_000 + 1000 * step + user}\n"
    for user in range(12)
    for step in range(4)
)
_ITEMS = "item,title\n" + "".join(f"i{item},Title {item}\n" for item in range(8))
SHOP: dict[str, str] = {"events.csv": _EVENTS, "items.csv": _ITEMS}
PREPARE = (
    "prepare data=tables data.root=. data.events=events.csv data.items=items.csv data.columns.time=time "
    "data.time_unit=s run=r"
)
"""A command by which all is well with SHOP."""
READ = "items 8, items_without_description 8, users 12, events 48"
"""What that command then says."""

Follow = Callable[[str, str], str]
"""From a command and the remedy printed for it to the command that a reader types next; it may fix files before."""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


Run = Callable[[str], Said]


@dataclass(frozen=True)
class Door:
    """One mistake.

    Attributes:
        name: what the newcomer did.
        command: as typed behind `trialign`, for a shell.
        files: what lies in the folder where it is typed; a function makes what is neither text nor bytes.
        before: commands that were run before, by which all is well.
        code: the exit code; 0 where it is no mistake for us.
        value: what the refusal says was found; of a command that is not refused, what it says somewhere.
        rule: what the refusal says should have been found.
        remedy: what it says to do.
        follow: how a reader does that; None only where nothing is refused.
        after: the exit code of the command that follows.
        outcome: what that one says; of a command that is not refused, what it says too.
        absent: what is said by neither.
    """

    name: str
    command: str
    files: Mapping[str, str | bytes | Callable[[Path], object]] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    code: int = 1
    value: str = ""
    rule: str = ""
    remedy: str = ""
    follow: Follow | None = None
    after: int = 0
    outcome: str = ""
    absent: str = "Traceback"


def walk(door: Door, run: Run) -> None:
    """Make the mistake in the current folder, read what is said to it, and follow that."""
    for name, content in door.files.items():
        write(name, content)
    for command in door.before:
        assert run(command).code == 0, f"trialign {command}"
    said = run(door.command)
    everything = said.out + said.err
    assert said.code == door.code, everything
    assert "Traceback" not in everything
    assert door.absent not in everything
    assert door.value, "a door says something"
    assert door.value in everything
    if said.code == 0:
        assert door.outcome in everything
        return
    assert all((door.rule, door.remedy, door.follow)), "a refusal has value, rule and remedy, and is followed"
    told, _, remedy = said.err.partition("\n  remedy: ")
    value, _, rule = told.partition("\n  rule:   ")
    assert (door.value in value, door.rule in rule, door.remedy in remedy) == (True, True, True), said.err
    assert door.follow is not None
    followed = door.follow(door.command, remedy)
    then = run(followed)
    everything = then.out + then.err
    assert then.code == door.after, f"trialign {followed}\n{everything}"
    assert door.outcome in everything
    assert door.absent not in everything


def write(name: str, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file, or let a function make it."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def settings(pattern: str = r"set ((?:'[^']*'|[^\s;,'])+)") -> Follow:
    """Follow by typing, behind the command, the settings that a pattern's group finds in the remedy."""

    def follow(command: str, remedy: str) -> str:
        found = re.search(pattern, remedy, re.MULTILINE)
        assert found, remedy
        return f"{command} {_unquoted(found[1])}"

    return follow


def instead(pattern: str = r"did you mean '([^']+)'") -> Follow:
    """Follow by typing the name that a pattern's group finds in place of the mistyped one, which is nearest to it."""

    def follow(command: str, remedy: str) -> str:
        found = re.search(pattern, remedy)
        assert found, remedy
        keys = [word.partition("=")[0] for word in shlex.split(command)]
        [wrong] = get_close_matches(found[1], keys, n=1, cutoff=0.5)
        return command.replace(wrong, found[1], 1)

    return follow


def repaired(name: str, repair: Callable[[str], str]) -> Follow:
    """Follow by repairing a file by hand, then typing the same command."""

    def follow(command: str, _: str) -> str:
        path = Path(name)
        path.write_text(repair(path.read_text()))
        return command

    return follow


def typed_in_a_shell(old: str, new: str) -> Follow:
    """Follow by running the shell's command behind the remedy's first colon, then naming the file that it made."""

    def follow(command: str, remedy: str) -> str:
        subprocess.run(remedy.partition(": ")[2], shell=True, check=True, timeout=60)
        return command.replace(old, new)

    return follow


def replaced(old: str, new: str) -> Follow:
    """Follow by typing another word, which the remedy leaves to the reader or names in `Door.remedy`."""
    return lambda command, _: command.replace(old, new)


def _unquoted(words: str) -> str:
    return " ".join(shlex.quote(word) for word in shlex.split(words))
