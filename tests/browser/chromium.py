"""Debian's Chromium, driven by Playwright in a process of its own, for tests and pictures of the operator's page."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")
Scheme: TypeAlias = Literal["light", "dark"]
DESKTOP: Final = (1440, 900)
PHONE: Final = (390, 844)
PATIENCE_SECONDS: Final = 240.0
ROOT: Final = Path(__file__).parents[2]


class VisitFailed(Exception):
    """The browser, or the page in it, did not do what it was asked to."""


def find_chromium() -> str | None:
    """Where Chromium is, if it is installed."""
    return shutil.which("chromium")


class Browser:
    """Visits pages, each visit in a browser with an empty profile."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.browser.driver"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )

    def visit(
        self,
        act: Callable[..., R],
        address: str,
        *,
        size: tuple[int, int] = DESKTOP,
        scheme: Scheme = "light",
        touch: bool = False,
        allowed: str | None = None,
        **arguments: object,
    ) -> R:
        """Open an address and do something of ``tests.browser.acts`` there.

        Args:
            act: what to do; its answer must be JSON.
            address: where.
            size: of the window, in CSS pixels.
            scheme: what the reader prefers.
            touch: whether it is a phone.
            allowed: part of errors on the page that are expected; all others fail the visit.
            arguments: of the act, by name.

        Raises:
            VisitFailed: it went wrong.
        """
        asked = {
            "act": act.__name__,
            "address": address,
            "size": size,
            "scheme": scheme,
            "touch": touch,
            "arguments": arguments,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        if not select.select([self._process.stdout], [], [], PATIENCE_SECONDS)[0]:
            raise VisitFailed(f"no answer in {PATIENCE_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise VisitFailed(f"the driver ended with status {self._process.wait()}")
        answer = cast("dict[str, object]", json.loads(line))
        if "error" in answer:
            raise VisitFailed(str(answer["error"]))
        problems = [text for text in cast("list[str]", answer["problems"]) if allowed is None or allowed not in text]
        if problems:
            raise VisitFailed("; ".join(problems))
        return cast("R", answer["value"])

    def close(self) -> None:
        """End the driver and its browser."""
        self._process.communicate(timeout=60)
