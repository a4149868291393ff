"""The process that drives Chromium: one line of JSON in, a visit, one line of JSON out.

A process of its own, as Playwright and trio-asyncio both want asyncio for themselves. What can be done on a page is in
``tests.browser.acts``, by name.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast

from playwright.sync_api import sync_playwright

from tests.browser import acts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from playwright.sync_api import Page, Playwright

ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""No sandbox, as tests may run as root; nothing but what a page asks for goes out."""


@contextmanager
def open_page(
    playwright: Playwright, width: int, height: int, scheme: str, *, touch: bool
) -> Generator[tuple[Page, list[str]]]:
    """Open an empty page in a fresh browser; the list fills with what goes wrong on it."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="coproc-chromium-") as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=shutil.which("chromium"),
            headless=True,
            args=ARGUMENTS,
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            has_touch=touch,
            is_mobile=touch,
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="UTC",
        )
        try:
            page = context.pages[0]
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: problems.append(f"error: {error}"))
            page.on(
                "console",
                lambda message: problems.append(f"console: {message.text}") if message.type == "error" else None,
            )
            yield page, problems
        finally:
            context.close()


def main() -> None:
    """Serve until standard input ends."""
    with sync_playwright() as playwright:
        for line in sys.stdin:
            asked = cast("dict[str, object]", json.loads(line))
            act = cast("Callable[..., object]", getattr(acts, str(asked["act"])))
            answer: dict[str, object] = {}
            try:
                width, height = cast("tuple[int, int]", asked["size"])
                touch = bool(asked["touch"])
                with open_page(playwright, width, height, str(asked["scheme"]), touch=touch) as (page, problems):
                    page.goto(str(asked["address"]))
                    answer["value"] = act(page, **cast("dict[str, object]", asked["arguments"]))
                    answer["problems"] = problems
            except Exception as error:  # noqa: BLE001 - told to who asked
                answer["error"] = f"{type(error).__name__}: {error}"
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


main()
