"""One set of versions: constraints.txt, repeated in environment.yml, installed by `make`."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]


def constraints() -> dict[str, str]:
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_environment_repeats_the_pins() -> None:
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pinned = dict(line.split("==") for line in pip if "==" in line)
    assert pinned == constraints()


def test_every_requirement_is_pinned() -> None:
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    wanted = "".join([setup["options"]["install_requires"], *setup["options.extras_require"].values()])
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in wanted.split()}
    assert names <= {name.lower() for name in constraints()}, "a requirement without a pin"


def test_every_extra_that_is_named_exists() -> None:
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    pages = [*(CHECKOUT / "docs").glob("*.md"), CHECKOUT / "README.md", *(CHECKOUT / "trialign").rglob("*.py")]
    named = {extra for page in pages for extra in re.findall(r"trialign\[([a-z-]+)\]", page.read_text())}
    assert "sentence-transformers" in named
    assert named <= set(setup["options.extras_require"])


def test_every_package_folder_is_shipped() -> None:
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {p.parent for p in (CHECKOUT / "trialign").rglob("*.py")}
    found = {".".join(folder.relative_to(CHECKOUT).parts) for folder in folders}
    assert found | {"trialign.launch", "trialign.conf", "trialign.slurm"} == listed


def test_torch_and_torchvision_are_pinned_together() -> None:
    pins = constraints()
    # torchvision 0.N goes with torch 2.(N - 15); apart, pip swaps torch for another build.
    assert int(pins["torch"].split(".")[1]) == int(pins["torchvision"].split(".")[1]) - 15
