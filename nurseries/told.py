"""A task status for a task that may come to tell twice that it has started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio


class ToldOnce:
    """A task status that may be told twice."""

    def __init__(self, task_status: trio.TaskStatus[object]) -> None:
        self._task_status = task_status
        self._told = False

    def started(self, value: object = None) -> None:
        """Pass the first word on."""
        if not self._told:
            self._told = True
            self._task_status.started(value)
