"""What the browser does on the operator's page, and what it sees. Answers are plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


def shoot(page: Page, path: str, *, whole: bool = False, click: str | None = None, seconds: float = 4.5) -> None:
    """Take a picture once figures have come in."""
    page.wait_for_selector("#parts li", state="attached")
    page.wait_for_timeout(1000 * seconds)
    if click is not None and page.locator(click).count():
        page.locator(click).first.click()
        page.mouse.move(2, 2)
        page.wait_for_timeout(400)
    page.screenshot(path=path, full_page=whole)
