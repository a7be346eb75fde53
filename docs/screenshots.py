"""Take the pictures of docs/serving.md from the page of a finished quickstart.

    .venv/bin/python docs/screenshots.py runs/quickstart

It needs Chromium. The user is the first of the held-out ones, in hash order, whose next item is among the ten.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.serve.browser import Browser, find_chromium
from tests.serve.site import answering
from trialign.run import Run
from trialign.serve.served import RunSource, Served

IMAGES = Path(__file__).with_name("images")
SETTLED = "['cards', 'levels'].every(name => document.getElementById(name).getAttribute('aria-busy') === 'false')"
PICTURES = "[...document.images].every(image => image.complete)"


def main(folder: Path) -> None:
    """Take all pictures."""
    binary = find_chromium()
    assert binary is not None, "there is no chromium on the PATH"
    served = RunSource(folder, from_stage={}, generator="train", accelerator="cpu", num_beams=50, batch_size=64).load()
    IMAGES.mkdir(exist_ok=True)
    user, code = _shown(folder, served)
    with answering(served) as address, tempfile.TemporaryDirectory() as profile, Browser(binary, Path(profile)) as page:
        page.open(address, width=1180, height=740)
        _load(page, user)
        _take(page, "page-recommendations")
        page.evaluate("document.querySelector('#walk').scrollIntoView()")
        page.call("Emulation.setDeviceMetricsOverride", width=1180, height=860, deviceScaleFactor=1, mobile=False)
        page.evaluate("document.querySelector('#walk').scrollIntoView()")
        _take(page, "page-walk")
        page.open(f"{address}#/codes/{code}", width=1180, height=740)
        page.wait("document.querySelector('#prefix .tile')")
        _take(page, "page-codes")
        page.open(address, width=390, height=844)
        _load(page, user)
        page.evaluate("document.querySelector('[aria-label=recommendations]').scrollIntoView()")
        _take(page, "page-phone")


def _shown(folder: Path, served: Served) -> tuple[str, int]:
    """Return a user who chose next what is recommended, and the first code of that item."""
    users = Run(folder).dataset.evaluation("test").first(200)
    items_UK, _ = served.rank(users.histories, 10, exclude=users.seen)
    hits = [row for row, items in enumerate(items_UK) if users.targets[row][0] in items[:3]]
    return users.users[hits[0]], int(served.catalogue.codes_NL[users.targets[hits[0]][0], 0])


def _load(page: Browser, user: str) -> None:
    page.wait(f"document.querySelectorAll('#cards .card').length === 10 && {SETTLED}")
    page.evaluate("document.querySelector('#user').value = ''")
    page.type("#user", user)
    page.press("Enter")
    page.wait(f"document.querySelector('#source').innerText.includes('{user}') && {SETTLED}")


def _take(page: Browser, name: str) -> None:
    """Write what the window shows, in 128 colors."""
    page.evaluate("[...document.images].forEach(image => { image.loading = 'eager'; })")
    page.evaluate("document.activeElement.blur()")
    page.wait(PICTURES)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shot.png"
        page.screenshot(path)
        shot = Image.open(io.BytesIO(path.read_bytes()))
    shot.convert("RGB").quantize(128).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
