"""Results to subscribe to: real computations in a real store, finished with made-up bytes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from coproc.results.server import ResultsSettings, serve_results
from tests.store.builders import TRANSACTION, add, batch, handle, with_inputs, work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.program.types import Handle
    from coproc.results.feed import ResultSource
    from coproc.store.base import ResultEvent, Store


class Publisher:
    """Makes results, one sequence number each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._inputs: list[Handle] = []

    async def publish(self, count: int = 1, transaction: bytes = TRANSACTION) -> list[Handle]:
        if not self._inputs:
            self._inputs = await with_inputs(self.store, 1)
        made = [handle() for _ in range(count)]
        computations = [add(self._inputs[0], self._inputs[0], output=name) for name in made]
        await self.store.submit(batch(*computations, transaction=transaction))
        await work(self.store)
        return made

    async def everything(self) -> list[ResultEvent]:
        return list(await self.store.results_after(0, 1_000_000))


@asynccontextmanager
async def serving(
    store: ResultSource, settings: ResultsSettings | None = None
) -> AsyncGenerator[tuple[str, trio.Event]]:
    """Serve results; yields the URL and the event that stops the server."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(_serve, store, settings or ResultsSettings(), stopping)
        yield f"ws://127.0.0.1:{port}/", stopping
        stopping.set()


async def _serve(
    store: ResultSource, settings: ResultsSettings, stopping: trio.Event, *, task_status: trio.TaskStatus[int]
) -> None:
    await serve_results(store, settings, stopping=stopping, task_status=task_status)
