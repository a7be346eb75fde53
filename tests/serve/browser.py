"""A headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

_T = TypeVar("_T")
_PATIENCE = 30
"""Seconds until a condition in a page has to hold."""

_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--remote-debugging-port=0",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]


def find_chromium() -> str | None:
    """Return the path of Chromium, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """A browser with one page; a context manager.

    Args:
        binary: path of Chromium.
        profile: an empty folder.
    """

    def __init__(self, binary: str, profile: Path) -> None:
        command = [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._loop = asyncio.new_event_loop()
        self._numbers = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.requests: list[str] = []
        """URLs that the page asked for."""
        self.errors: list[str] = []
        """What the page's console showed as an error, exceptions included."""

    def __enter__(self) -> Browser:
        self._run(self._connect(self._address()))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._run(self._disconnect())
        self._process.terminate()
        self._process.communicate()
        self._loop.close()

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page in a window of this size, and forget what earlier ones asked for."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests.clear()
        self.errors.clear()
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def wait(self, condition: str) -> Any:
        """Wait until a JavaScript expression is true in the page, and return its value."""
        program = f"""new Promise((done, fail) => {{
          const end = Date.now() + {1000 * _PATIENCE};
          const look = () => {{
            let found = null;
            try {{ found = ({condition}); }} catch (error) {{ if (Date.now() > end) return fail(error); }}
            if (found) return done(found);
            if (Date.now() > end) return fail(new Error("never came true: " + {json.dumps(condition)}));
            setTimeout(look, 20);
          }};
          look();
        }})"""
        return self.evaluate(program)

    def evaluate(self, program: str) -> Any:
        """Return the value of a JavaScript expression, of a promise what it comes to."""
        answer = self.call("Runtime.evaluate", expression=program, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a selector finds, as a mouse does."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"{found} && !{found}.disabled")
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({found}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Write into a field."""
        self.click(selector)
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key that has no letter, e.g. Enter or Tab."""
        codes = {"Enter": 13, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "Escape": 27, "Delete": 46}
        text = {"text": "\r"} if key == "Enter" else {}
        how = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **how, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    def text(self, selector: str = "body") -> str:
        """Return the text that an element shows."""
        shown: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return shown

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        wide: int = self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self._run(self._call(method, parameters))

    def _address(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "DevTools listening on " in line:
                return line.split()[-1]
        raise AssertionError("Chromium ended before it listened")

    async def _connect(self, address: str) -> None:
        self._session = aiohttp.ClientSession()
        port = address.split("/")[2]
        async with self._session.get(f"http://{port}/json/list") as answer:
            (page,) = [found for found in await answer.json() if found["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self._call(f"{domain}.enable", {})

    async def _disconnect(self) -> None:
        await self._socket.close()
        await self._reader
        await self._session.close()

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._numbers += 1
        answer = self._answers[self._numbers] = self._loop.create_future()
        await self._socket.send_json({"id": self._numbers, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, 2 * _PATIENCE)

    async def _read(self) -> None:
        async for message in self._socket:
            found = json.loads(message.data)
            if "id" not in found:
                self._note(found["method"], found["params"])
            elif "error" in found:
                self._answers.pop(found["id"]).set_exception(AssertionError(found["error"]["message"]))
            else:
                self._answers.pop(found["id"]).set_result(found["result"])

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)
