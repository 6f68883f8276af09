"""A headless Chromium, driven by its DevTools protocol: open a page, act on it, see it."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.ray_head import tree

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0"),
)
WAIT_S = 300


class Page:
    """One tab."""

    def __init__(self, link: ClientConnection) -> None:
        self._link, self._ids = link, itertools.count(1)
        self.complaints: list[str] = []  # what the console and the content policy said
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._ids)
        self._link.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._link.recv(timeout=WAIT_S))
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(said["params"]))

    def run(self, script: str) -> Any:
        """Return what a script's value is; promises are waited for."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script's value is true."""
        deadline = time.monotonic() + WAIT_S
        while not self.run(script):
            assert time.monotonic() < deadline, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.3)

    def open(self, url: str, *, width: int, height: int = 900) -> None:
        """Open an address in a window of a size in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.send("Page.navigate", url=url)
        self.until("document.readyState == 'complete'")

    def picture(self, file: Path) -> None:
        """Save a PNG of the whole page."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own and yield its tab."""
    assert PROGRAM
    words = [PROGRAM, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, deadline = folder / "DevToolsActivePort", time.monotonic() + WAIT_S
        while not port_file.is_file() or not port_file.read_text().strip():
            assert process.poll() is None and time.monotonic() < deadline, "no browser"
            time.sleep(0.2)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        # no pings: a busy machine may take long to answer one
        options = {"max_size": None, "open_timeout": 60, "ping_interval": None}
        with connect(tabs[0]["webSocketDebuggerUrl"], **options) as link:
            yield Page(link)
    finally:
        for each in tree(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()
