"""A page in headless Chromium, over the pipe of its debugging protocol: what it logs, how wide it is, how it looks."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The browser's command; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One window of `width` x 844 pixels, as on a phone; a context manager."""

    def __init__(self, profile: Path, width: int = 390) -> None:
        self._profile, self._width, self._count = profile, width, 0
        self.logged: list[str] = []
        self.asked: list[str] = []

    def __enter__(self) -> Browser:
        pipes = [os.pipe(), os.pipe()]
        command = [
            find() or "", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            f"--user-data-dir={self._profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (pipes[0][0], pipes[1][1])]

        def give() -> None:  # the protocol wants file descriptors 3 and 4
            for place, end in enumerate(theirs, 3):
                os.dup2(end, place)

        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(3, 4), preexec_fn=give, stdout=null, stderr=null)
        self._watch = threading.Timer(100, self._process.kill)  # whoever reads from a dead browser is told so
        self._watch.start()
        self._out, self._in = pipes[0][1], pipes[1][0]
        for end in (pipes[0][0], pipes[1][1], *theirs):
            os.close(end)
        self._file, self._session = os.fdopen(self._in, "rb"), None
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": self._width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(20)
        self._watch.cancel()
        os.close(self._out)
        self._file.close()

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what is logged in between is kept."""
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": given, **session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(self, path: Path) -> None:
        """Load a file and wait until all of it is there."""
        self.logged, self.asked = [], []
        self.call("Page.navigate", url=path.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def shoot(self, path: Path) -> None:
        """A picture of the whole page."""
        size = {"x": 0, "y": 0, "width": self._width, "height": self.value("document.body.scrollHeight"), "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=size)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._file.read(1)) != b"\0":
            assert byte, "the browser has gone"
            message += byte
        found = json.loads(message)
        given = found.get("params", {})
        if found.get("method") == "Log.entryAdded":
            self.logged.append(given["entry"]["text"])
        elif found.get("method") == "Runtime.consoleAPICalled":
            self.logged.append(str(given["args"]))
        elif found.get("method") == "Runtime.exceptionThrown":
            self.logged.append(str(given["exceptionDetails"]))
        elif found.get("method") == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        return found
