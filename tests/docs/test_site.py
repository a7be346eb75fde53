"""The pages as a site: it builds without a warning, and links lead on there too."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trialign

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_page_of_the_api_lists_every_name() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (CHECKOUT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(trialign.__all__)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path, skip_for: Callable[[str, str], None]) -> None:
    if importlib.util.find_spec("mkdocstrings") is None or importlib.util.find_spec("material") is None:
        skip_for("docs", "mkdocs is not installed; pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "docs" / "api" / "index.html").read_text()
    assert all(f'id="trialign.{name}"' in api for name in trialign.__all__)
    assert (tmp_path / "site" / "benchmarks" / "results" / "quantize.json").exists()
