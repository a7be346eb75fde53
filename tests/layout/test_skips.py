"""A test skips by the fixture `skip_for`, which TRIALIGN_REQUIRE turns into a failure, or not at all."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
KNOWING = {"conftest.py", "slurm/conftest.py"}
"""Files that ask TRIALIGN_REQUIRE themselves."""


def test_no_test_skips_past_trialign_require() -> None:
    skipping = re.compile(r"importorskip\(|pytest\.skip\(|mark\.skip|mark\.xfail|skipif\(")
    paths = {str(path.relative_to(TESTS)): path.read_text() for path in TESTS.rglob("*.py")}
    assert {name for name, text in paths.items() if skipping.search(text)} - {"layout/test_skips.py"} == KNOWING
    assert all("TRIALIGN_REQUIRE" in paths[name] for name in KNOWING)
