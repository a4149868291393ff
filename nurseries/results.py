"""The actor that pushes results to websocket subscribers.

Decides nothing of its own: ``coproc.results.server`` serves; this names it in the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from coproc.results.server import ResultsSettings, serve_results

if TYPE_CHECKING:
    from coproc.results.feed import ResultSource

__all__ = ["ResultsSettings", "run_results"]


async def run_results(
    store: ResultSource,
    settings: ResultsSettings,
    *,
    stopping: trio.Event,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stopping`` is set, then send what is on its way and close with 1012; reports the port.

    Raises:
        FatalError: the address cannot be listened on.
    """
    await serve_results(store, settings, stopping=stopping, task_status=task_status)
