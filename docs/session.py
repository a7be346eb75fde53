"""Writes docs/session.md: runs a session as a user would, from the quickstart to the next morning.

    python docs/session.py FOLDER > docs/session.md

FOLDER is empty at first. It keeps what each part said, so that a second call prints the page at once; remove
`FOLDER/session.json` and `FOLDER/runs` to begin anew. Slurm's daemons have to be installed (docs/cluster.md).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text().partition("## Your own data")[2]
CLUSTER = Path("runs/minicluster")
CHAIN = Path("runs/night")

INTRODUCTION = """# A session, from the quickstart to the next morning

Everything below was run, one command after the other, and printed by

    python docs/session.py FOLDER > docs/session.md

Output is shortened by five rules:

- Of five or more lines in a row that begin with the same word, the first two and the last are shown.
- What is still long ends early: all but its last line is cut. `[... 14 lines]` says how many lines are missing.
- Digits of times and process numbers are written `-`.
- Paths begin in the folder that the session ran in. The checkout of trialign is written `CHECKOUT`.
- Revisions of the code are left out.

A command that was refused is behind a `$`, so that nobody pastes it. Another processor rounds otherwise, and its
figures differ."""


@dataclass(frozen=True)
class Step:
    """A command as it is typed.

    Attributes:
        say: what the reader reads before it.
        command: for bash; `PID` stands for what `until` returns.
        lines: how many lines of its output are shown.
        until: waits for what the user would wait for, in the session's folder.
    """

    say: str
    command: str
    lines: int = 24
    until: Callable[[Path], str] | None = None


def main(folder: Path) -> None:
    """Run the parts that are not recorded, and print the page."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "session.json"
    said: dict[str, list[list[str | int]]] = json.loads(record.read_text()) if record.exists() else {}
    write_shop(folder)
    try:
        for title, steps in PARTS.items():
            if title not in said:
                said[title] = [list(run(folder, step)) for step in steps]
                record.write_text(json.dumps(said, indent=1))
    finally:
        if (folder / CLUSTER).exists():
            run(folder, Step("", f"python -m trialign.slurm.minicluster stop {CLUSTER}"))
    print(INTRODUCTION)
    for title, steps in PARTS.items():
        print(f"\n## {title}")
        for step, (code, output) in zip(steps, said[title], strict=True):
            say = textwrap.fill(step.say, 120, break_on_hyphens=False, break_long_words=False)
            print(f"\n{say}\n\n{shown(step, int(code), plain(str(output), folder))}")


def write_shop(folder: Path) -> None:
    """Write the two files that the README shows side by side, and the catalogue as a web shop keeps it."""
    block = next(block for block in README.split("\n\n") if block.startswith("    customer,"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in block.splitlines()]
    (folder / "DIR").mkdir(exist_ok=True)
    (folder / "DIR" / "orders.csv").write_text("".join(f"{row[0]}\n" for row in rows))
    catalogue = "".join(f"{row[1]}\n" for row in rows if len(row) > 1)
    (folder / "DIR" / "catalogue.csv").write_text(catalogue)
    (folder / "DIR" / "web.csv").write_text(re.sub(r"(\w+) mug", r"<b>\1</b> mug &amp; saucer", catalogue))


def of_readme() -> str:
    """Return the README's command for own data, as it is there."""
    found = re.search(r"^    (trialign pipeline (?:.*\\\n)*.*)$", README, re.MULTILINE)
    assert found is not None
    return found[1].replace("\n    ", "\n")


def run(folder: Path, step: Step) -> tuple[int, str]:
    """Run a command in the session's folder; return its code and all that it printed."""
    stands_for = step.until(folder) if step.until else ""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TRIALIGN_"))}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    if (folder / CLUSTER).exists():
        clean["SLURM_CONF"] = str(folder / CLUSTER / "slurm.conf")
    print(f"$ {step.command}", file=sys.stderr, flush=True)
    done = subprocess.run(
        ["/bin/bash", "-c", step.command.replace("PID", stands_for)],
        cwd=folder,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, file=sys.stderr, flush=True)
    return done.returncode, done.stdout


def wait(ready: Callable[[], str], what: str) -> str:
    """Wait until something is there, and return it."""
    end = time.monotonic() + 1800.0
    while not (found := ready()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within half an hour")
        time.sleep(0.2)
    return found


def rank_of_training(folder: Path) -> str:
    """Return the process of the training's second rank, once the training has saved itself."""

    def found() -> str:
        if not list((folder / CHAIN / "train" / "checkpoints").glob("step-*.json")):
            return ""
        for entry in Path("/proc").iterdir():
            try:
                told = set((entry / "environ").read_bytes().split(b"\0"))
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = f"SLURM_CONF={folder / CLUSTER / 'slurm.conf'}".encode()
            if b"trialign.launch.cli" in words and b"train" in words and {b"SLURM_PROCID=1", ours} <= told:
                return entry.name
        return ""

    return wait(found, "a rank of the training")


def taken_up(folder: Path) -> str:
    """Wait until the job has noted the end of the rank and begun anew."""
    attempts = folder / CHAIN / "slurm" / "train.attempts.jsonl"
    return wait(lambda: "again" if attempts.read_text().count('"start"') == 2 else "", "a second attempt")


def finished(folder: Path) -> str:
    """Wait for the last stage."""
    return wait(lambda: "there" if (folder / CHAIN / "evaluate" / "test" / "manifest.json").exists() else "", "the end")


SHOP = "data=tables data.root=DIR data.events=orders.csv"
WEB = (
    f"trialign prepare {SHOP} data.time_unit=iso \\\n"
    "    'data.columns={user: customer, item: sku, time: bought}' \\\n"
    "    data.items=web.csv 'data.item_columns={item: sku, title: name}' run=runs/web"
)
TRAIN = "trialign submit train cluster=minicluster run=runs/mine runtime.nodes=2 \\\n    runtime.strategy=ddp"
SMALL = "experiment=quickstart data.num_items=300 data.num_users=600 train.steps=120"

PARTS = {
    "1. The quickstart": [
        Step(
            "`make quickstart` installs trialign and runs `trialign pipeline experiment=quickstart "
            "run=runs/quickstart`: a built-in shop of 2,000 items and 6,000 users, and a training of 6 epochs, in "
            "about four minutes on a quiet machine ([README](../README.md) has its table). Here the shop and the "
            "training are smaller, so that this page is made in minutes; after so few steps the model stays below the "
            "best baseline.",
            f"trialign pipeline {SMALL} run=runs/quickstart",
            lines=66,
        ),
        Step(
            "Run it again, and nothing is made twice.",
            f"trialign pipeline {SMALL} run=runs/quickstart",
            lines=16,
        ),
        Step(
            "Ask it for something: items for who has just looked at these two.",
            "trialign recommend run=runs/quickstart 'recommend.items=[item-0000007,item-0000100]'",
        ),
    ],
    "2. Your own data": [
        Step(
            "Two files, of four items and two customers. You name the columns; what depends on the size of the shop is "
            "lowered, and each such change is said in a line. From so little nothing can be learned: it shows that the "
            "files are read as you mean it.",
            of_readme(),
            lines=37,
        ),
        Step(
            "Bob has not bought the tall mug yet, so it is all that is left for him.",
            "trialign recommend run=runs/mine recommend.user=bob",
        ),
    ],
    "3. Three mistakes, and how they are fixed": [
        Step(
            "A column that the file does not have. A refusal has three lines: the value, the rule it breaks, the "
            "remedy. `prepare` is enough to see whether files are read; it takes seconds.",
            WEB.replace("item: sku, time", "item: product, time"),
        ),
        Step(
            "The remedy lists the columns that are there: `sku` was meant. This catalogue comes from a web shop, "
            "and its titles have HTML in them; that is not refused, but said.",
            WEB,
        ),
        Step(
            "It is said how to have the HTML read. The stage is finished, though, with another setting, and is not "
            "overwritten by accident.",
            f"{WEB} data.read_html=true",
        ),
        Step("Here it is meant.", f"{WEB} data.read_html=true rebuild=true"),
        Step(
            "A mistyped name is refused before any work is done, with the name that was meant.",
            "trialign pipeline experimet=quickstart run=runs/quickstart",
        ),
        Step(
            "So is a mistyped value.",
            "trialign evaluate run=runs/mine evaluate.split=validaton",
        ),
    ],
    "4. On a cluster": [
        Step(
            "A Slurm of three virtual nodes on this machine; `make minicluster` starts the same. On a real cluster you "
            "leave this out and name yours ([cluster.md](cluster.md)).",
            f'eval "$(python -m trialign.slurm.minicluster start {CLUSTER})"; sinfo',
        ),
        Step(
            "What would a training on two nodes look like? `--dry-run` queues nothing, but everything is checked.",
            f"{TRAIN} --dry-run",
        ),
        Step(
            "The remedy that leaves the numbers of the training as they are: fewer rows at a time on each rank.",
            f"{TRAIN} runtime.micro_batch_size=4 --dry-run",
            lines=40,
        ),
        Step(
            "The same as a chain of jobs. Each stage waits for those it reads; the training runs on two nodes.",
            f"trialign submit pipeline cluster=minicluster run=runs/night {SMALL} \\\n"
            "    runtime.nodes=2 runtime.strategy=ddp runtime.micro_batch_size=4 runtime.checkpoint_every=20",
        ),
        Step("How far is it, once the training runs?", "trialign status run=runs/night", until=rank_of_training),
        Step(
            "One of the two processes that train is killed, as a machine without memory would do it.",
            "kill -9 PID",
            until=rank_of_training,
        ),
        Step(
            "`status` tells it. The job has been queued again, on a node that did not fail, and continues from its "
            "last checkpoint. Nobody had to do anything.",
            "trialign status run=runs/night",
            until=taken_up,
        ),
        Step("Some minutes later everything is there.", "trialign status run=runs/night", until=finished),
    ],
    "5. The next morning": [
        Step(
            "The run of the cluster next to that of the quickstart. Their settings are the same, so they are taken "
            "together (`2 seeds` are two runs of one seed here). What was killed and taken up on two nodes has "
            "the same R@10 as what ran undisturbed; N@10 differs in the third digit, as two ranks round sums "
            "otherwise. The end lists what differs between them.",
            "trialign report 'report.runs=[runs/quickstart,runs/night]' run=runs/comparison",
            lines=60,
        ),
        Step(
            "The settings of a run need not be repeated: they are taken from it, and it is said which. `trialign "
            "evaluate run=runs/night evaluate.split=validation` would rank another split with them; this "
            "recommends, as a program wants it.",
            "trialign recommend run=runs/night recommend.user=user-0000042 recommend.k=3 recommend.format=json",
        ),
    ],
}


def shown(step: Step, code: int, lines: list[str]) -> str:
    """Return a command and its output as code of Markdown."""
    short = shortened(lines, step.lines)
    if code:  # of a language of its own: tests/docs tries what a page shows in the others
        return "\n".join(["```console", f"$ {step.command}", "", *short, "```"])
    text = "\n".join([step.command, *[""] * bool(short), *(f"  {line}" for line in short)])
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def plain(output: str, folder: Path) -> list[str]:
    """Return the lines of an output without what differs between two runs of a session."""
    lines = []
    for line in output.splitlines():
        if line.strip().startswith("revision:"):
            continue
        for name, meaning in ((f"{folder}/", ""), (str(folder), "FOLDER"), (str(CHECKOUT), "CHECKOUT")):
            line = replaced(line, name, meaning)
        lines.append(_TIME.sub(lambda found: re.sub(r"\d", "-", found[0]), line).rstrip())
    while lines and not lines[-1]:
        del lines[-1]
    return lines


_TIME = re.compile(
    r"\d{4}-\d\d-\d\d|\b[\d-]*\d+:\d\d(:\d\d)?\b|\b[\d.]+ (s|a second|min)\b|(?<=pid )\d+"
    r"|(built|skipped) │ +[\d.]+ │"
)


def replaced(line: str, name: str, meaning: str) -> str:
    """Return a line with a name replaced; the cells of a table stay as wide as they were."""
    if not re.search("[│┃]", line):
        return line.replace(name, meaning)
    missing = " " * (len(name) - len(meaning))
    return re.sub(re.escape(name) + r"([^│┃]*)", lambda found: meaning + found[1] + missing, line)


def shortened(lines: list[str], most: int) -> list[str]:
    """Return the lines that are shown: of many alike three, and of what is still long the beginning and the last."""
    short = [line for _, alike in groupby(lines, first_word) for line in of_alike(list(alike))]
    if len(short) <= most:
        return short
    left_out = sum(int(found[1]) if (found := _LEFT_OUT.fullmatch(line)) else 1 for line in short[most - 2 : -1])
    return [*short[: most - 2], _marker(left_out), short[-1]]


def first_word(line: str) -> str:
    """Return what lines that are alike have in common, numbers aside."""
    words = re.sub(r"[\d.]+", "0", line).replace("│", " ").split()
    return words[0] if words else ""


def of_alike(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a group that are shown."""
    if len(lines) < 5 or not lines[0].strip():
        yield from lines
        return
    yield from lines[:2]
    yield _marker(len(lines) - 3)
    yield lines[-1]


_LEFT_OUT = re.compile(r"\[\.\.\. (\d+) lines\]")


def _marker(number: int) -> str:
    return f"[... {number} lines]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
