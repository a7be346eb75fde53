"""What is installed is the whole: a wheel, unpacked far from the checkout, runs from an empty directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from what git would hand over, and unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in tracked:
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


def test_every_yaml_and_template_is_inside(site: Path) -> None:
    for folder, target in (("conf", "conf"), ("slurm", "slurm"), ("trialign/templates", "templates")):
        wanted = {
            p.relative_to(CHECKOUT / folder)
            for p in (CHECKOUT / folder).rglob("*")
            if p.suffix in (".yaml", ".sbatch", ".html", ".css")
        }
        assert wanted
        found = {p.relative_to(site / "trialign" / target) for p in (site / "trialign" / target).rglob("*")}
        assert wanted <= found


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
