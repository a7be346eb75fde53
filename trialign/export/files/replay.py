"""Ask a bundle, or a service, for the prompts of parity.json again: `python replay.py [FOLDER | URL]`.

Without an argument it asks the bundle that it lies in. Exit status 1: something differs, and the lines say what.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOLERANCE = 1e-4
Answer = list[tuple[str, float]]


@dataclass(frozen=True)
class Prompt:
    """A history, the items that are left out, how many are asked for, and the recorded answer."""

    history: list[str]
    exclude: list[str]
    k: int
    items: list[str]
    scores: list[float]


def bundle(folder: Path) -> Callable[[Prompt], Answer]:
    """Return what answers a prompt by the code and the weights of a folder."""
    _ignore_torchvision_if_broken()
    names = ("custom_generate/generate.py", "rank.py")
    path = next(folder / name for name in names if (folder / name).exists())
    spec = importlib.util.spec_from_file_location("bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ranker = module.load(folder)

    def ask(prompt: Prompt) -> Answer:
        (found,) = ranker.rank([prompt.history], prompt.k, exclude=[prompt.exclude])
        return [(item, score) for item, score in found]

    return ask


def _ignore_torchvision_if_broken() -> None:
    """Hide a torchvision that was built for another torch: transformers would import it in passing, and fail."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pass
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's way to say that it is not there


def service(url: str) -> Callable[[Prompt], Answer]:
    """Return what answers a prompt by a service."""

    def ask(prompt: Prompt) -> Answer:
        body = {"items": prompt.history, "k": prompt.k, "exclude_seen": bool(prompt.exclude)}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url.rstrip('/')}/recommend", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return [(item["item"], item["score"]) for item in json.load(answer)["items"]]

    return ask


def difference(prompt: Prompt, found: Answer) -> str | None:
    """Return how an answer differs from the recorded one, in words; None where it does not.

    Two items whose scores are equal within the tolerance may change places.
    """
    expected = list(zip(prompt.items, prompt.scores, strict=True))
    if len(found) != len(expected):
        return f"{len(found)} items instead of {len(expected)}"
    for place, ((item, score), (wanted, wanted_score)) in enumerate(zip(found, expected, strict=True), start=1):
        if not abs(score - wanted_score) <= TOLERANCE:
            return f"place {place} is {item} ({score:.5f}) instead of {wanted} ({wanted_score:.5f})"
        tied = {name for name, value in expected if abs(value - score) <= TOLERANCE}
        if item not in tied and expected[-1][0] not in tied:
            return f"place {place} is {item} instead of {wanted}"
    return None


def main(where: str) -> int:
    """Ask for every prompt; print what differs and return the exit status."""
    own = Path(__file__).resolve().parent
    is_url = where.startswith(("http://", "https://"))
    folder = own if is_url else Path(where)
    prompts = [Prompt(**prompt) for prompt in json.loads((folder / "parity.json").read_text())["prompts"]]
    ask = service(where) if is_url else bundle(folder)
    wrong = 0
    for number, prompt in enumerate(prompts):
        if told := difference(prompt, ask(prompt)):
            wrong += 1
            print(f"prompt {number} ({len(prompt.history)} items): {told}")
    print(f"{len(prompts) - wrong} of {len(prompts)} prompts get the recorded items and scores from {where}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).resolve().parent)))
