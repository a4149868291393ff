"""A bad line to a node: what the node tells is repeated, swallowed and put out of order, and sockets drop."""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed, serve_websocket, wrap_client_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_websocket import WebSocketConnection, WebSocketRequest


class BadLine:
    """Stands before a node's websocket."""

    def __init__(self, seed: int) -> None:
        self.target = ""
        """The node's address; it may change, and nobody may be there."""
        self.url = ""
        self.dropped = self.repeated = self.held = 0
        self._messages = self._news = 0
        self._rng = random.Random(seed)
        self._held: list[str | bytes] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Forward while the block lasts."""
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(serve_websocket, self._connected, "127.0.0.1", 0, ssl_context=None, connect_timeout=5)
            )
            self.url = f"ws://127.0.0.1:{server.port}"
            yield
            nursery.cancel_scope.cancel()

    async def _connected(self, request: WebSocketRequest) -> None:
        host, _, port = self.target.removeprefix("ws://").partition(":")
        try:
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError:
            await request.reject(502)
            return
        try:
            async with trio.open_nursery() as nursery:
                node = await wrap_client_stream(nursery, stream, self.target.removeprefix("ws://"), "/")
                caller = await request.accept()
                nursery.start_soon(self._ask, caller, node, nursery)
                nursery.start_soon(self._tell, node, caller, nursery)
        finally:
            await trio.aclose_forcefully(stream)

    async def _ask(self, caller: WebSocketConnection, node: WebSocketConnection, nursery: trio.Nursery) -> None:
        try:
            while True:
                await node.send_message(await caller.get_message())
        except ConnectionClosed:
            nursery.cancel_scope.cancel()

    async def _tell(self, node: WebSocketConnection, caller: WebSocketConnection, nursery: trio.Nursery) -> None:
        try:
            while True:
                message = await node.get_message()
                for part in self._garbled(message) if "method" in json.loads(message) else [message]:
                    await caller.send_message(part)
                self._messages += 1
                if self._messages % 40 == 0:
                    self.dropped += 1
                    await caller.aclose(1011, "the line is bad")
        except ConnectionClosed:
            nursery.cancel_scope.cancel()

    def _garbled(self, message: str | bytes) -> list[str | bytes]:
        """Hold some notifications back, let go of them late and in any order or never, and repeat others."""
        self._news += 1
        if self._news % 4 in {1, 2}:
            self._held.append(message)
            self.held += 1
            return []
        sent = [message]
        if self._news % 4 == 3:
            sent += [message]
            self.repeated += 1
        elif self._news % 8 == 0:  # every other time they are swallowed
            self._rng.shuffle(self._held)
            sent += self._held
        if self._news % 4 == 0:
            self._held = []
        return sent
