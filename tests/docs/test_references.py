"""What pages point to is there: links, headings, files, tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "slurm/*.md")
    for path in CHECKOUT.glob(pattern)
    if path.name != "CHANGELOG.md"  # history: what it names may be gone
)
TESTS = {path.relative_to(CHECKOUT / "tests").as_posix(): path for path in (CHECKOUT / "tests").rglob("test_*.py")}
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
NAMES = {known: set(_DEFINED.findall(path.read_text())) for known, path in TESTS.items()}
PLACES = ("tests", "docs", "benchmarks", "conf", "launch", "slurm", "trialign", ".github")


@pytest.fixture(params=PAGES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(page: Path) -> None:
    """Files, and headings by the names that a page of Markdown is given for them."""
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        aim = page if not name else page.parent / name
        if not aim.exists() or (heading and heading not in headings(aim)):
            lost.append(link)
    assert not lost


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


CITED = {
    path for room in ("trialign", "launch", "conf", "benchmarks", "tests") for path in (CHECKOUT / room).rglob("*.*")
}
_CITED = re.compile(r"method\.md,? (\d+)(?:, tasks? (\d+)(?: to (\d+))?)?")
_TASK = re.compile(r"Task (\d+) of method\.md (\d+)")


def test_sections_and_tasks_of_the_method_that_code_cites_are_on_the_page() -> None:
    """`method.md 7` cites a heading, `Task 4 of method.md 6` and `method.md 6, tasks 4 to 6` rows of its table."""
    method = (CHECKOUT / "docs" / "method.md").read_text()
    sections = set(re.findall(r"^## (\d+)\. ", method, re.MULTILINE))
    tasks = set(re.findall(r"^\| (\d+) \| `\w+`", method, re.MULTILINE))
    lost, cited = [], 0
    for path in CITED:
        if path.suffix not in {".py", ".yaml", ".md"}:
            continue
        text = path.read_text()
        for section, first, last in _CITED.findall(text):
            cited += 1
            if section not in sections or not {task for task in (first, last) if task} <= tasks:
                lost.append(f"{path.name}: method.md {section}, tasks {first} to {last}")
        lost += [f"{path.name}: task {task}" for task, _ in _TASK.findall(text) if task not in tasks]
    assert cited
    assert not lost


def spans(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", page.read_text())]


def test_tests_that_are_named_are_there(page: Path) -> None:
    """A file by its path below tests/ or its name, a test by the name that it is found by."""
    lost = []
    for span in spans(page):
        for file, name in re.findall(r"([\w/]*test_\w+\.py)?(?:::)?\b(test_\w+)?(?!\w*\.py)", span):
            found = [known for known in TESTS if f"/{known}".endswith(f"/{file.removeprefix('tests/')}")]
            if not (found if file else TESTS) or (name and not any(name in NAMES[known] for known in found or TESTS)):
                lost.append(span)
    assert not lost


def test_files_of_the_checkout_that_are_named_are_there(page: Path) -> None:
    """What begins with a folder of the checkout and is no pattern, e.g. `conf/cluster/gpu.yaml` and `tests/slurm/`."""
    named = [span for span in spans(page) if re.fullmatch(rf"({'|'.join(map(re.escape, PLACES))})/[\w./-]*", span)]
    assert not [name for name in named if not exists(name)]


def exists(name: str) -> bool:
    # A page on runs names their folders, of which slurm/ is one; pages on tests leave out tests/.
    return any((root / name).exists() for root in (CHECKOUT, CHECKOUT / "tests")) or name.startswith("slurm/log")
