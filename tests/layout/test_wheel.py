"""What is installed is the whole: a wheel, unpacked far from the checkout, runs from an empty directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def tracked() -> list[str]:
    """Return the files that git would hand over."""
    listing = ["git", "-C", str(CHECKOUT), "ls-files", "-co", "--exclude-standard"]
    return subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from what git would hand over, and unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((CHECKOUT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_nothing_lands_outside_the_package(site: Path) -> None:
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"trialign"}


def test_every_file_of_the_package_is_inside(site: Path) -> None:
    """YAML, templates, prompts, configs of the small CLIP, scripts for Slurm, py.typed: whatever the folders hold."""
    mapped = {"trialign": "trialign", "launch": "trialign/launch", "conf": "trialign/conf", "slurm": "trialign/slurm"}
    parts = [name.split("/") for name in tracked()]
    wanted = {Path(mapped[top], *below) for top, *below in parts if top in mapped}
    found = {path.relative_to(site) for path in (site / "trialign").rglob("*") if path.is_file()}
    assert {path.suffix for path in wanted} >= {".py", ".yaml", ".html", ".css", ".json", ".txt", ".sbatch", ".typed"}
    assert found == wanted


def test_it_runs_from_an_empty_directory(site: Path, tmp_path: Path) -> None:
    # -I would hide PYTHONPATH; -P keeps the working directory off the path. The path hooks of an editable install yield
    # to PYTHONPATH, so what runs is the wheel.
    program = (
        f"import trialign; assert trialign.__file__.startswith({str(site)!r}), trialign.__file__\n"
        "from trialign.launch.cli import main; main()"
    )
    arguments = ["prepare", "experiment=quickstart", "run=first", "data.num_items=48", "data.num_users=20"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first" / "prepare" / "manifest.json").exists()
