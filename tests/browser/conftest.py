"""A browser for tests of the operator's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import Browser, find_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; tests are skipped where there is none."""
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium (make test does so when it runs as root)")
    opened = Browser()
    yield opened
    opened.close()
