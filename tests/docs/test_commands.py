"""Every documented command: a shell reads it, the command line composes and checks it, a script's parser takes it.

A page's commands are run by bash, in an empty folder where every program is a stand-in that notes its words. So quotes,
variables, loops, continued lines and comments mean here what they mean to who pastes them.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from trialign.launch import cli

from trialign.cluster.plan import jobs_for
from trialign.config.config import Config

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "slurm/*.md")
    for path in CHECKOUT.glob(pattern)
    if path.name not in ("CHANGELOG.md", "configuration.md")  # the one is history, the other generated
)
HEADERS = sorted((CHECKOUT / "conf" / "experiment").glob("*.yaml"))
SCRIPTS = sorted(path for folder in ("benchmarks", "launch", "docs") for path in (CHECKOUT / folder).glob("*.py"))

STANDS_FOR = {
    "<this repository>": "URL",
    "[overrides]": "...",
    "[--dry-run]": "--dry-run",
    "[--only NAME]": "--only NAME",
    "[--jobs N]": "--jobs N",
    "VERB": "train",
    "NAME": "gpu",
    "N": "2",
    "S": "ddp",
}
"""What a page's placeholder is in a command that is tried, in this order. DIR, RUN, JOB and the like may stay."""

_PROGRAMS = "trialign python pytest make git sbatch srun scancel sinfo tail"
_SHELL = re.compile(rf"({_PROGRAMS.replace(' ', '|')}|\.venv/bin/python|source|eval|for)( |$)|[A-Z_]+=")
_COMMAND = re.compile(r"(trialign|python -m|\.venv/bin/python|make|pytest) ")
_STAND_IN = """#!/bin/bash
printf '%s\\0' "$AT" "${SAID:-}" "${0##*/}" "$@" $'\\n' >> "$NOTES"
if [ "$1" = -s ]; then echo :; fi  # make -s minicluster, which is evaluated
[[ $0 == */srun || $0 == */sbatch ]] || exit 0
export SLURM_ARRAY_TASK_ID=0 SLURM_PROCID=0
while (($#)); do
    case $1 in
        --wrap | -c) exec /bin/bash -c "$2" ;;
        trialign) exec "$@" ;;
    esac
    shift
done
"""
_BEFORE = "unset BASH_ENV; set -eu; trap 'export AT=$LINENO' DEBUG\n"


@dataclass(frozen=True)
class Command:
    """A command as a program gets it.

    Attributes:
        place: file and line.
        words: the program's name and its arguments.
        whole: nothing is left out of it (`...`); a sentence may leave out settings too.
    """

    place: str
    words: list[str]
    whole: bool

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.words)}"


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[Command]:
    """Return the commands of all pages, headers and scripts."""
    folder = tmp_path_factory.mktemp("shell")
    for name in [*_PROGRAMS.split(), ".venv/bin/python", ".venv/bin/activate"]:
        path = folder / ("bin" if "/" not in name else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_STAND_IN if not name.endswith("activate") else "")
        path.chmod(0o755)
    (folder / "docs").mkdir()
    (folder / "trialign").symlink_to(".")  # what `git clone` makes
    return [command for path in [*PAGES, *HEADERS, *SCRIPTS] for command in _noted(path, folder)]


def _noted(path: Path, folder: Path) -> list[Command]:
    """Return the commands of a file, by running what it shows."""
    script, before, notes = folder / "script", folder / "before", folder / "notes"
    lines = shown(path)
    for name, meaning in STANDS_FOR.items():
        lines = [re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", meaning, line) for line in lines]
    script.write_text("\n".join(lines) + "\n")
    before.write_text(_BEFORE)
    notes.write_text("")
    environment = {"PATH": str(folder / "bin"), "BASH_ENV": str(before), "NOTES": str(notes), "HOME": str(folder)}
    done = subprocess.run(["/bin/bash", str(script)], cwd=folder, env=environment, capture_output=True, text=True)
    where = path.relative_to(CHECKOUT)
    assert done.returncode == 0, f"{where}: a shell cannot run it: {done.stderr.replace(str(script), str(where))}"
    found = [note.split("\0") for note in notes.read_text().split("\0\n\0")[:-1]]
    return [
        Command(f"{where}:{at}", [word for word in words if word != "..."], "..." not in words and not said)
        for at, said, *words in found
    ]


def shown(path: Path) -> list[str]:
    """Return the lines of a file that a shell would be given, all others empty, so that lines keep their numbers."""
    text = path.read_text()
    if path.suffix == ".yaml":
        return list(_header(text))
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
        text = re.sub(r"^(trialign [a-z]+ .*=)", r"    \1", text, flags=re.MULTILINE)  # as --help prints it
    kept = [""] * (text.count("\n") + 1)
    for number, block in _blocks(text):
        if _SHELL.match(block[0]):
            kept[number : number + len(block)] = block
        else:
            hidden = [line for line in block if _COMMAND.match(line)]
            assert not hidden, f"{path.relative_to(CHECKOUT)}: a block with a command begins with none: {hidden}"
    for number, span in _spans(text):
        kept[number] = f"{kept[number]}{'; ' * bool(kept[number])}SAID=1 {span}"
    return kept


def _header(text: str) -> Iterator[str]:
    for line in text.splitlines():
        told = line.removeprefix("# Command:").removeprefix("#").strip()
        yield told if line.startswith("#") and _COMMAND.match(told) else ""


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, lines) of every paragraph of code."""
    fenced, block = "", list[str]()
    for number, line in enumerate([*text.splitlines(), ""]):
        fence = line.startswith("```")
        code = fenced == "```" if fenced and not fence else line.startswith("    ")  # of another language: none
        if code and line.strip():
            block.append(line.strip())
        elif block:
            yield number - len(block), block
            block = []
        if fence:
            fenced = "" if fenced else line.strip()


def _spans(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, command) of every command that is in a sentence."""
    lines = text.splitlines()
    for number, block in _blocks(text):
        lines[number : number + len(block)] = [""] * len(block)
    prose = "\n".join("" if line.startswith("```") else line for line in lines)
    for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", prose):
        span = " ".join(found[1].split())
        if _COMMAND.match(span):
            yield prose.count("\n", 0, found.start()), span


@pytest.fixture
def nothing_collected() -> Iterator[None]:
    """Leave garbage where it lies: Hydra copies so many small objects that looking for it is a sixth of the time."""
    gc.disable()
    yield
    gc.enable()


def of(commands: Iterable[Command], *program: str) -> dict[tuple[str, ...], Command]:
    """Return the commands of a program by their arguments, each once; none would be a collector that finds none."""
    found = {tuple(one.words[len(program) :]): one for one in commands if tuple(one.words[: len(program)]) == program}
    assert found, f"no page shows {' '.join(program)}"
    return found


def test_every_verb_that_is_named_is_one(commands: list[Command]) -> None:
    known = {*cli.VERBS, "--help"}
    assert not [str(shown) for words, shown in of(commands, "trialign").items() if words[0] not in known]


@pytest.mark.usefixtures("nothing_collected")
@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_command_of_a_verb_composes_and_is_checked(
    verb: str,
    commands: list[Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """By the command line itself, multiruns and sweeps on Slurm included; what a verb does after that is left out."""
    composed: list[Config] = []

    def checked(config: Config) -> None:
        composed.append(config)
        if config.cluster.verb is not None:
            jobs_for(config.cluster.verb, config, HydraConfig.get().overrides.task)

    monkeypatch.setattr(cli, "script", lambda _verb: checked)
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda *_: None)  # composes all members once more
    monkeypatch.setattr(BasicLauncher, "launch", of_every_shape)
    monkeypatch.setattr("trialign.launch.sweep.queue", lambda members, _say: composed.extend(m.config for m in members))
    monkeypatch.setenv("TRIALIGN_DATA", "DATA")
    monkeypatch.chdir(tmp_path)
    faults = []
    for words, shown in unlike(of(commands, "trialign", verb)):
        monkeypatch.setattr(sys, "argv", ["trialign", verb, *words, *left_out(verb, words, whole=shown.whole)])
        composed.clear()
        try:
            cli.main()
        except SystemExit:
            faults.append(f"{shown}\n  {capfd.readouterr().err.strip()}")
        else:
            if not composed and "--help" not in words:
                faults.append(f"{shown}\n  did nothing")
    assert not faults, "\n".join(faults)


_SHARED = re.compile(r"(run|hydra\.sweep\.dir|data\.root|from\.\w+|report\.runs)=.*|(seed)=[\d,]+")
_LAUNCH = BasicLauncher.launch


def unlike(found: dict[tuple[str, ...], Command]) -> list[tuple[tuple[str, ...], Command]]:
    """Return the commands without those that differ from another in the names of folders and the seed alone."""
    shapes = {
        (shown.whole, tuple(_SHARED.sub(r"\1\2=", word) for word in words)): (words, shown)
        for words, shown in found.items()
    }
    return list(shapes.values())


def of_every_shape(self: BasicLauncher, members: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Launch the members of a multirun that differ in more than the seed."""
    shapes = {tuple(word for word in words if not word.startswith("seed=")): words for words in members}
    return _LAUNCH(self, list(shapes.values()), first)


def left_out(verb: str, given: Sequence[str], *, whole: bool) -> list[str]:
    """Return what a command is given that a sentence, or `...`, leaves out."""
    if whole or "--help" in given:
        return []
    names = {word.partition("=")[0] for word in given if "=" in word}
    wanted = ["run=DIR", *(["cluster=gpu"] * (verb == "submit"))]
    if verb == "submit" and not any("=" not in word and word != "--dry-run" for word in given):
        wanted.append("cluster.verb=pipeline")
    return [word for word in wanted if word.partition("=")[0] not in names]


def test_every_script_is_there_and_its_parser_knows_what_it_is_given(
    commands: list[Command], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for words, shown in of(commands, "python").items():
        if words[0] != "-m":
            assert (CHECKOUT / words[0]).is_file(), f"{shown}: no such file"
            continue
        _, name, *rest = words
        if name == "pytest" or not rest:
            assert importlib.util.find_spec(name) is not None, f"{shown}: no such module"
            continue
        monkeypatch.setattr(sys, "argv", [name, *rest])
        try:
            importlib.import_module(name).main()
        except ModuleNotFoundError as missing:
            faults.append(f"{shown}\n  {missing}")
        except SystemExit as ended:
            if ended.code != 0:
                faults.append(f"{shown}\n  {capfd.readouterr().err.strip()}")
    assert not faults, "\n".join(faults)


_PARSE = argparse.ArgumentParser.parse_args


def parsed(self: argparse.ArgumentParser) -> None:
    """Parse, and go no further: the work is left out."""
    _PARSE(self)
    raise SystemExit(0)


def test_figures_that_a_page_has_recorded_are_there(commands: list[Command]) -> None:
    recorded = {
        (shown.words[shown.words.index("--json") + 1], shown.place)
        for shown in of(commands, "python").values()
        if "--json" in shown.words and ".md:" in shown.place
    }
    missing = [f"{place}: {file}" for file, place in recorded if file != "FILE" and not (CHECKOUT / file).is_file()]
    assert recorded
    assert not missing


def test_targets_of_make_and_paths_of_tests_are_there(commands: list[Command]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert not [str(shown) for words, shown in of(commands, "make").items() if set(words) - {"-s"} - targets]
    run = of(commands, "pytest") | of(commands, "python", "-m", "pytest")
    paths = [(word, shown) for words, shown in run.items() for word in words if not word.startswith("-")]
    assert not [str(shown) for word, shown in paths if not (CHECKOUT / word).exists()]


def test_every_placeholder_is_one_of_a_page() -> None:
    """A table of what stands for what holds nothing that no page has any more."""
    lines = "\n".join(line for path in [*PAGES, *HEADERS, *SCRIPTS] for line in shown(path))
    assert not [name for name in STANDS_FOR if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", lines)]
