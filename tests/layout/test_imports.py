"""The house's rules on who may import whom, held by reading every module's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "trialign"

# Upstream first: a module imports from its own place or from places before it.
ORDER = [
    ("types", "errors", "foreign", "terminal", "lock", "progress", "bar", "transcript"),
    ("files", "execution", "ranking", "html"),
    ("manifest", "record"),
    ("stage",),
    ("config",),
    ("runtime",),
    ("stream",),
    ("data",),
    ("storefront",),
    ("enrich",),
    ("embed",),
    ("quantize",),
    ("semid",),
    ("decode",),
    ("generate",),
    ("reward",),
    ("rl",),
    ("evaluate",),
    ("export",),
    ("run",),
    ("serve",),
    ("pipeline",),
    ("cluster",),
]
RANK = {name: place for place, names in enumerate(ORDER) for name in names}
BUNDLED = PACKAGE / "export" / "files"
"""What a bundle carries to places without trialign."""
# Mapped into the package by setup.cfg, but living at the top of the checkout.
MAPPED = {"launch", "conf", "slurm"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (dotted module, whether it is for type checkers only) for every import of a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), id(node) in typing_only


def modules() -> list[Path]:
    return [*sorted(PACKAGE.rglob("*.py")), *sorted((CHECKOUT / "launch").glob("*.py"))]


def place_of(path: Path) -> str:
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "launch"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_imports_point_upstream(path: Path) -> None:
    here = place_of(path)
    if here in ("launch", "__init__"):
        return
    assert here in RANK, f"{here} has no place in the import order; give it one"
    for name, typing_only in imports(path):
        assert not name.startswith("."), f"{path}: relative import"
        parts = name.split(".")
        if parts[0] != "trialign" or len(parts) == 1 or typing_only:
            continue
        # Code-free: config/ finds the YAML files through trialign.conf, cluster/ its templates through trialign.slurm.
        allowed = RANK[here] if parts[1] in RANK else -1
        assert parts[1] in ("conf", "slurm") or RANK.get(parts[1], 99) <= allowed, (
            f"{path} imports {name}, which is downstream"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_heavy_libraries_stay_in_their_places(path: Path) -> None:
    here = place_of(path)
    for name, _ in imports(path):
        library = name.split(".")[0]
        if name == "trialign.runtime.lightning":
            assert here == "runtime" or path.name == "module.py", f"{path} imports {name}"
        if library in ("hydra", "omegaconf"):
            assert here in ("config", "launch"), f"{path} imports {name}"
        if library == "deepspeed":
            assert here == "runtime", f"{path} imports {name}"


@pytest.mark.parametrize(
    ("names", "door", "folders"),
    [
        (("pytorch_lightning", "lightning", "lightning_fabric"), "lightning", ("trialign", "launch", "tests")),
        (("transformers",), "transformers", ("trialign", "launch")),
    ],
)
def test_a_framework_is_imported_in_one_place(names: tuple[str, ...], door: str, folders: tuple[str, ...]) -> None:
    places = {
        path.relative_to(CHECKOUT)
        for folder in folders
        for path in (CHECKOUT / folder).rglob("*.py")
        for name, _ in imports(path)
        if name.split(".")[0] in names and not path.is_relative_to(BUNDLED)
    }
    assert places == {Path(f"trialign/runtime/{door}.py")}, f"take it from trialign.runtime.{door}"


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.py")), ids=lambda path: path.name)
def test_what_a_bundle_carries_needs_no_more_than_its_readme_says(path: Path) -> None:
    allowed = {"torch", "transformers", "safetensors", "numpy", "onnxruntime", *sys.stdlib_module_names}
    allowed |= {"vllm"} if path.name == "trialign_vllm.py" else set()
    assert {name.split(".")[0] for name, _ in imports(path)} <= allowed


def test_the_training_of_the_generator_is_the_stages_own() -> None:
    """Reinforcement learning and the estimate build by generate/build.py and fit by generate/fit.py."""
    users = {place_of(path) for path in modules() for name, _ in imports(path) if name == "trialign.generate.train"}
    assert users <= {"launch"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_fragile_imports_come_after_the_torchvision_repair(path: Path) -> None:
    if path.name == "torchvision_fault.py" or path.is_relative_to(BUNDLED):
        return
    fragile = {"pytorch_lightning", "transformers", "sentence_transformers", "open_clip", "timm", "peft", "torchvision"}
    repair = {"trialign.runtime.torchvision_fault", "trialign.runtime.transformers", "trialign.runtime.lightning"}
    order = [name for name, typing_only in imports(path) if not typing_only]
    first = next((i for i, name in enumerate(order) if name.split(".")[0] in fragile), None)
    if first is not None:
        assert repair & set(order[:first]), f"{path} imports {order[first]} unprotected"


def test_command_line_imports_nothing_heavy_before_it_knows_the_verb() -> None:
    heavy = ("hydra", "omegaconf", "numpy", "pyarrow", "torch", "transformers", "pytorch_lightning")
    code = f"import sys, trialign.launch.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_text_leaves_by_doors_that_make_it_harmless(path: Path) -> None:
    doors = {
        "rich.console": ("terminal.py",),
        "html": ("markup.py",),
        "jinja2": ("html.py",),
        "markupsafe": ("html.py",),
    }
    for name, typing_only in imports(path):
        assert typing_only or path.name in doors.get(name, (path.name,)), f"{path} imports {name}; use {doors[name]}"


def test_names_say_something() -> None:
    vague = {"utils", "helpers", "misc", "common", "manager"}
    assert not [path for path in modules() if path.stem in vague]
