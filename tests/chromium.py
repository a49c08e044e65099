"""A headless Chromium that the machine has, spoken to over two pipes (its DevTools protocol): nothing is installed.

Debian calls the package `chromium`. What a page did is told by the browser itself: its requests, its console, its log.
"""

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--remote-debugging-pipe",
)  # fmt: skip
TROUBLE = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


def found() -> str | None:
    """Return the browser's path; None where there is none, or no pipes to speak to it over (Windows)."""
    if os.name != "posix":
        return None
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


@dataclass(frozen=True)
class Seen:
    """A page as it was opened: its picture (PNG), every URL it asked for, what the console said, what scripts found."""

    picture: bytes
    requests: tuple[str, ...]
    console: tuple[str, ...]
    facts: dict[str, Any]


@dataclass
class Browser:
    """The two ends of the pipes and the events that came while an answer was awaited."""

    commands: BinaryIO
    answers: BinaryIO
    count: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.count += 1
        told = {"id": self.count, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self.commands.write(json.dumps(told).encode() + b"\0")
        self.commands.flush()
        while True:
            message = self.read()
            if message.get("id") == self.count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                answer: dict[str, Any] = message["result"]
                return answer
            self.events.append(message)

    def read(self) -> dict[str, Any]:
        """Read one message."""
        letters = bytearray()
        while (letter := self.answers.read(1)) != b"\0":
            if not letter:
                raise RuntimeError("the browser is gone")
            letters += letter
        message: dict[str, Any] = json.loads(letters)
        return message

    def wait(self, method: str) -> None:
        """Wait for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.read())

    def open(self, page: Path, width: int, scheme: str, facts: dict[str, str]) -> Seen:
        """Open a page in a tab of `width` pixels, `scheme` light or dark; `facts` are expressions to evaluate in it."""
        self.events.clear()
        target = self("Target.createTarget", url="about:blank")["targetId"]
        tab = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable", tab)
        self(
            "Emulation.setDeviceMetricsOverride", tab, width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", tab, features=media)
        self("Page.navigate", tab, url=page.as_uri())
        self.wait("Page.loadEventFired")
        evaluated = {
            name: self("Runtime.evaluate", tab, expression=expression, returnByValue=True)["result"].get("value")
            for name, expression in facts.items()
        }
        picture = self("Page.captureScreenshot", tab, captureBeyondViewport=True)["data"]
        self("Target.closeTarget", targetId=target)
        asked = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        said = [json.dumps(event["params"]) for event in self.events if event.get("method") in TROUBLE]
        return Seen(base64.b64decode(picture), tuple(asked), tuple(said), evaluated)


@contextmanager
def browser(path: str, profile: Path) -> Iterator[Browser]:
    """Start the browser with a fresh profile and end it."""
    import fcntl  # Windows has none

    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # Chromium reads commands on 3 and writes answers on 4; both pipes first move out of their way
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, from_write)]
    actions = [(os.POSIX_SPAWN_DUP2, end, place) for place, end in enumerate(ends, 3)]
    nowhere = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    words = [path, *SWITCHES, f"--user-data-dir={profile}"]
    process = os.posix_spawn(path, words, os.environ, file_actions=[*actions, nowhere])
    for end in ends:
        os.close(end)
    os.close(to_read)
    os.close(from_write)
    with os.fdopen(to_write, "wb") as commands, os.fdopen(from_read, "rb") as answers:
        try:
            yield Browser(commands, answers)
        finally:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
