"""A whole service inside a test, what it says under ``/metrics`` and ``/readyz``, and a database that can go away."""

from __future__ import annotations

import json
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import trio
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from coproc.config import Addresses, Config
from nurseries.root import serve
from tests.nurseries.test_root import probe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path


@asynccontextmanager
async def running(database_url: str, **settings: object) -> AsyncGenerator[Addresses]:
    """Run a service while the block lasts, then drain it."""
    values: dict[str, object] = {
        "database_url": database_url,
        "grpc_port": 0,
        "results_port": 0,
        "health_port": 0,
        "executor": "reference",
        "strategy": "throughput",
        "drain_seconds": 5.0,
        "allow_insecure_parameters": True,
    }
    config = Config(**(values | settings))

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        assert await serve(config, task_status=task_status) == 0

    async with trio.open_nursery() as nursery:
        yield await nursery.start(run)
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class Scrape:
    """What ``/metrics`` said once."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    types: dict[str, str]

    def __call__(self, name: str, **labels: str) -> float:
        """One value; 0 for a series that has not begun."""
        return self.samples.get((f"coproc_{name}", frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> list[dict[str, str]]:
        """Every series of a name."""
        return [dict(labels) for found, labels in self.samples if found == f"coproc_{name}"]


async def scrape(addresses: Addresses) -> Scrape:
    """Read the figures of a service."""
    status, body = await probe(addresses.health, "/metrics")
    assert status == 200
    families = list(text_string_to_metric_families(body.decode()))
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        },
        {family.name: family.type for family in families},
    )


async def readiness(addresses: Addresses) -> tuple[int, dict[str, object]]:
    """Ask ``/readyz``."""
    status, body = await probe(addresses.health, "/readyz")
    return status, cast("dict[str, object]", json.loads(body))


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds, as an operator would."""
    while not await check():  # noqa: ASYNC110 - it is asked from outside
        await trio.sleep(0.05)


class Relay:
    """Stands before the database's socket; ``down`` cuts every connection and refuses new ones."""

    def __init__(self, database_url: str, folder: Path) -> None:
        parameters = conninfo_to_dict(database_url)
        port = parameters.get("port") or 5432
        self._behind = f"{parameters['host']}/.s.PGSQL.{port}"
        self._socket = folder / f".s.PGSQL.{port}"
        options = {name: value for name, value in parameters.items() if name != "host"}
        self.conninfo = make_conninfo("", **{**options, "host": str(folder)})
        user, database = parameters["user"], parameters["dbname"]
        self.url = f"postgresql://{user}@/{database}?host={folder}&port={port}"
        self._scope = trio.CancelScope()

    async def up(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pass bytes on until ``down``."""
        with trio.CancelScope() as self._scope, trio.socket.socket(trio.socket.AF_UNIX) as listening:
            try:
                await listening.bind(str(self._socket))
                listening.listen()
                task_status.started()
                async with trio.open_nursery() as nursery:
                    while True:
                        near, _ = await listening.accept()
                        nursery.start_soon(self._join, trio.SocketStream(near))
            finally:
                self._socket.unlink()

    def down(self) -> None:
        """Go away."""
        self._scope.cancel(reason="the database goes away")

    async def _join(self, near: trio.SocketStream) -> None:
        async with near, await trio.open_unix_socket(self._behind) as far, trio.open_nursery() as nursery:

            async def pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
                try:
                    async for data in source:
                        await target.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel(reason="one side has hung up")

            nursery.start_soon(partial(pump, near, far))
            await pump(far, near)
