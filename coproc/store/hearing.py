"""Results as this process stores them, for readers within it: sooner than a wake-up and a query could tell.

Decides nothing but who is told. It is a shortcut that a reader may never be offered, and whoever takes it still reads
what others store.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from coproc.store.base import ResultEvent


class Hearing:
    """Whoever hears."""

    def __init__(self) -> None:
        super().__init__()
        self._hearers: list[Callable[[Sequence[ResultEvent]], None]] = []

    @contextmanager
    def hearing(self, hear: Callable[[Sequence[ResultEvent]], None]) -> Generator[None]:
        """Call ``hear`` with what ``finish_all`` has just stored, in order, while the block lasts."""
        self._hearers.append(hear)
        try:
            yield
        finally:
            self._hearers.remove(hear)

    def _tell(self, events: Sequence[ResultEvent]) -> None:
        for hear in self._hearers:
            hear(events)
