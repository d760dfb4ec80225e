"""A headless Chromium driven over its DevTools protocol: enough to open a page, click and take a picture."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--window-size=1280,800", "--remote-debugging-port=0"),
)


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_open(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Browser:
    """One page; use as a context manager."""

    def __init__(self, program: str, profile: Path) -> None:
        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._port_file = profile / "DevToolsActivePort"
        self._messages = 0

    def __enter__(self) -> Browser:
        self.wait_for(lambda: self._port_file.exists() and self._port_file.read_text().strip(), "Chromium to start")
        port = self._port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
            page = next(target for target in json.load(reply) if target["type"] == "page")
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None).__enter__()
        self.call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=30)

    @staticmethod
    def wait_for(condition: Any, what: str, tries: int = 240) -> Any:
        """Poll until the condition holds; the result of the condition."""
        for _ in range(tries):
            if value := condition():
                return value
            time.sleep(0.5)
        raise AssertionError(f"waited in vain for {what}")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._messages += 1
        self._socket.send(json.dumps({"id": self._messages, "method": method, "params": parameters}))
        while True:
            reply = json.loads(self._socket.recv(timeout=120))
            if reply.get("id") == self._messages:
                return reply.get("result", reply)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """All text that the page shows."""
        return self.evaluate("document.body ? document.body.innerText : ''") or ""

    def click_button(self, label: str) -> None:
        """Click the button with this label; waits until it is there and enabled."""
        self._click(f"[...document.querySelectorAll('button')].find(x => x.innerText.trim() == {json.dumps(label)})")

    def click_label(self, label: str) -> None:
        """Click the checkbox beside this label; waits until it is there and enabled."""
        found = f"[...document.querySelectorAll('label')].find(x => x.innerText.trim() == {json.dumps(label)})"
        self._click(f"document.getElementById({found}?.htmlFor)")

    def _click(self, element: str) -> None:
        found = f"(e => e && !e.disabled ? (e.click(), true) : false)({element})"
        self.wait_for(lambda: self.evaluate(found), f"{element} to be there and enabled")

    def screenshot(self, path: Path) -> None:
        """PNG picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
