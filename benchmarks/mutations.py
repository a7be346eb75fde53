"""Whether tests notice a wrong line: one-line changes to the code, each with the tests that should go red under it.

    python -m benchmarks.mutations --json FILE
    python -m benchmarks.mutations --only order.

Changes are data, in benchmarks/mutations/. They are applied to a copy of the tree, one at a time. A change that
survives says that a test is missing; what changes no behavior is not listed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from benchmarks.record import alone, arguments, record

CHECKOUT = Path(__file__).parents[1]
LISTS = CHECKOUT / "benchmarks" / "mutations"
FIELDS = {"file", "old", "new", "tests"}
MOUNTED = ("launch", "conf", "slurm")
"""Folders of the checkout that are packages of trialign, see setup.cfg."""
LIMIT_S = 240
"""Seconds for the tests of one change; below the limit of a test in setup.cfg, so that hanging is not taken for red."""


@dataclass(frozen=True)
class Mutation:
    """One change of one line.

    Attributes:
        name: the list it is in, and what is wrong afterwards.
        file: which file, from the root of the checkout.
        old: text that is in it once.
        new: what it is replaced by.
        tests: pytest's names of the tests that should go red.
    """

    name: str
    file: str
    old: str
    new: str
    tests: list[str]

    def applied(self, text: str) -> str:
        """Return the file's text with the change."""
        return text.replace(self.old, self.new)


def main() -> None:
    """Apply every change, or those that `--only` names."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", action="append", metavar="NAME", help="changes whose name begins so; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="changes tested at a time")
    chosen = parser.parse_args()
    known = load(LISTS)
    if found := faults(known, CHECKOUT):
        raise SystemExit("\n".join(found))
    wanted = [one for one in known if chosen.only is None or one.name.startswith(tuple(chosen.only))]
    if not wanted:
        raise SystemExit(f"no change is called {' or '.join(chosen.only)}; the lists are in {LISTS}")
    survivors, errors = apply(wanted, CHECKOUT, chosen.jobs)
    tested = [one.name for one in wanted if one.name not in errors]
    rows = [("applied", tested), ("survivors", survivors)]
    record([alone(name, ", ".join(names), len(names), "changes") for name, names in rows], chosen.json)
    if errors:
        raise SystemExit("\n".join(f"{name}: {told}" for name, told in errors.items()))


def load(folder: Path) -> list[Mutation]:
    """Return the changes of all lists of a folder, in the order of their files."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for name, entry in tomllib.loads(path.read_text()).items():
            if set(entry) != FIELDS:
                raise SystemExit(
                    f"{path.name}: {name} does not have the keys {', '.join(sorted(FIELDS))} and no others"
                )
            found.append(Mutation(f"{path.stem}.{name}", **entry))
    return found


def faults(known: Sequence[Mutation], root: Path) -> list[str]:
    """Return, in words, what makes changes unfit for a tree: nobody is to take them for noticed or survived."""
    told = []
    for one in known:
        path = root / one.file
        text = path.read_text() if path.is_file() else ""
        if (count := text.count(one.old)) != 1:
            told.append(f"{one.name}: its old text is {count} times in {one.file}, it must be there once")
            continue
        lines, changed = text.splitlines(), one.applied(text).splitlines()
        if len(lines) != len(changed) or sum(a != b for a, b in zip(lines, changed, strict=True)) != 1:
            told.append(f"{one.name}: it changes another number of lines than one")
        elif path.suffix == ".py" and (error := _error_of(one.applied(text))):
            told.append(f"{one.name}: {one.file} does not compile with it: {error}")
        told += [f"{one.name}: there is no test {test}" for test in one.tests if not _exists(test, root)]
        if not one.tests:
            told.append(f"{one.name}: no test is named")
    return told


def apply(wanted: Sequence[Mutation], root: Path, jobs: int) -> tuple[list[str], dict[str, str]]:
    """Apply changes one at a time to copies of a tree.

    Returns:
        The names of those that no test noticed; and by name, in words, why of others nothing is known.
    """
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copies = SimpleQueue[Path]()
        for number in range(jobs):
            copies.put(_copy(root, Path(folder) / str(number)))
        copy = copies.get()
        tests = list(dict.fromkeys(test for one in wanted for test in one.tests))
        code, output = _pytest(copy, tests, LIMIT_S * len(wanted))
        if code != 0:
            raise SystemExit(f"{output}\nthe named tests are not green without a change")
        copies.put(copy)
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = list(pool.map(lambda one: _outcome(one, copies), wanted))
    survivors = [one.name for one, code in zip(wanted, outcomes, strict=True) if code == 0]
    errors = {one.name: str(code) for one, code in zip(wanted, outcomes, strict=True) if code not in (0, 1)}
    return survivors, errors


def _outcome(one: Mutation, copies: SimpleQueue[Path]) -> int | str:
    """Return pytest's exit code, 0 or 1, under one change; or why there is none of the two."""
    copy = copies.get()
    file = copy / one.file
    text = file.read_text()
    begin = time.perf_counter()
    try:
        file.write_text(one.applied(text))
        code, output = _pytest(copy, one.tests, LIMIT_S)
    finally:
        file.write_text(text)
        copies.put(copy)
    told = {0: "SURVIVED", 1: "noticed", None: "timed out"}.get(code, "error")
    print(f"{one.name:60} {told:10} {time.perf_counter() - begin:5.1f} s", flush=True)
    if code is None:
        return f"its tests were not done after {LIMIT_S} s"
    return code if code in (0, 1) else f"pytest ended with exit code {code}: {output[-2000:]}"


def _copy(root: Path, copy: Path) -> Path:
    """Copy what git knows or would add, so that it is imported whatever is installed."""
    listed = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():  # deleted files are listed too
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    for name in MOUNTED:
        if (copy / name).is_dir():
            (copy / "trialign" / name).symlink_to(copy / name)
    # By their time and size, caches of two texts of one length written within a second would be taken for each other.
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "."]
    subprocess.run([sys.executable, *compiled], cwd=copy, check=True, capture_output=True)
    return copy


def _pytest(copy: Path, tests: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """Return the exit code, None past the limit, and what was printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    environment.setdefault("TRIALIGN_DATA", str(CHECKOUT.parent / "shared" / "data"))
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, ""
    return process.returncode, output


def _error_of(text: str) -> str | None:
    try:
        compile(text, "changed", "exec")
    except SyntaxError as error:
        return str(error)
    return None


def _exists(test: str, root: Path) -> bool:
    path, _, function = test.partition("::")
    if not (root / path).is_file():
        return False
    return not function or f"def {function.split('[')[0]}(" in (root / path).read_text()


if __name__ == "__main__":
    main()
