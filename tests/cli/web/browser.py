"""Chromium without a window, where it is installed; driven by its DevTools' protocol over pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.reaper.process_tools import ended_with_block

__all__ = ["Page", "find_browser", "open_page"]

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # tests may run as root; the only page is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The program; None if there is none on PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Page:
    """A page in the browser."""

    def __init__(self, commands: trio.abc.SendStream, answers: trio.abc.ReceiveStream) -> None:
        self._commands = commands
        self._answers = answers
        self._received = b""
        self._last = 0
        self._session: dict[str, str] = {}

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Do what the protocol calls so, and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | self._session
        await self._commands.send_all(json.dumps(message).encode() + b"\0")
        while True:
            answer = await self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            chunk = await self._answers.receive_some()
            assert chunk, "the browser has ended"
            self._received += chunk
        text, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer

    async def attach(self) -> None:
        """Open a tab."""
        made = await self.call("Target.createTarget", url="about:blank")
        found = await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = {"sessionId": found["sessionId"]}

    async def close(self) -> None:
        """End the browser."""
        self._session = {}
        await self.call("Browser.close")

    async def evaluate(self, expression: str) -> Any:
        """What an expression of the page's script is."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, expression: str) -> None:
        """Wait until it is true; the test's timeout is the bound."""
        while not await self.evaluate(expression):  # noqa: ASYNC110 # of a foreign process
            await trio.sleep(0.02)

    async def dom(self) -> str:
        """What the page has become, as HTML."""
        return str(await self.evaluate("document.documentElement.outerHTML"))

    async def picture(self, file: Path) -> None:
        """Take a picture of it, as PNG."""
        found = await self.call("Page.captureScreenshot", format="png")
        await trio.Path(file).write_bytes(base64.b64decode(found["data"]))


LIVE = "document.body?.dataset.ready === 'yes'"  # the page of `web` has been sent what there is


@asynccontextmanager
async def open_page(
    browser: str, url: str, size: tuple[int, int] = (1100, 800), *, ready: str = LIVE
) -> AsyncIterator[Page]:
    """Show a page, once an expression is true there."""
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [browser, *_OPTIONS, f"--user-data-dir={folder}"]
        words.append(f"--window-size={size[0]},{size[1]}")
        # The protocol's file descriptors are 3 and 4.
        shell = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        process = await trio.lowlevel.open_process(
            ["bash", "-c", shell, "browser", *words],
            pass_fds=[commands_out, answers_in],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        async with (
            trio.lowlevel.FdStream(commands_in) as commands,
            trio.lowlevel.FdStream(answers_out) as answers,
            ended_with_block(process, 50),
        ):
            page = Page(commands, answers)
            await page.attach()
            await page.call("Page.navigate", url=url)
            await page.wait_for(ready)
            yield page
            await page.close()
            await process.wait()
