"""A node that can be told to misbehave: silent reorganisations, notifications in disorder, lost sockets, lies."""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trio_websocket import WebSocketConnection, WebSocketRequest

    from coproc.chain.blocks import Log


def text(data: bytes) -> str:
    return "0x" + data.hex()


class FakeChain:
    """Blocks of logs; what is dropped can still be asked for by its hash."""

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        self.blocks: list[dict[str, Any]] = []
        self.by_hash: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self._made = 0
        self.mine()

    @property
    def head(self) -> dict[str, Any]:
        return self.blocks[-1]

    def mine(self, logs: Sequence[Log] = (), bloom: bytes | None = None) -> None:
        self._made += 1
        name = text(bytes([0xAB]) * 24 + self._made.to_bytes(8, "big"))
        block: dict[str, Any] = {
            "number": hex(len(self.blocks)),
            "hash": name,
            "parentHash": self.blocks[-1]["hash"] if self.blocks else text(bytes(32)),
        }
        if bloom is not None:
            block["logsBloom"] = text(bloom)
        self.blocks.append(block)
        self.by_hash[name] = block
        self.logs[name] = [
            {
                "address": text(log.address),
                "topics": [text(topic) for topic in log.topics],
                "data": text(log.data),
                "blockHash": name,
                "transactionHash": text(log.transaction_hash),
                "logIndex": hex(index),
                "removed": False,
            }
            for index, log in enumerate(logs)
        ]

    def drop(self, depth: int) -> None:
        """Go back, without a word."""
        del self.blocks[len(self.blocks) - depth :]


class FakeNode:
    """Serves a chain over a websocket."""

    def __init__(self, chain: FakeChain, *, seed: int | None = None) -> None:
        self.chain = chain
        self.port = 0
        self.connections = 0
        self.requests: list[str] = []
        self.is_mute = False
        self.patience: int | None = None
        """Answers on one connection before the node hangs up."""
        self.withheld = 0
        """How many answers about logs will be empty."""
        self._rng = None if seed is None else random.Random(seed)
        self._subscribers: set[WebSocketConnection] = set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve while the block lasts; again on the same port if there was one."""
        async with trio.open_nursery() as nursery:
            run = partial(serve_websocket, self._handle, "127.0.0.1", self.port, ssl_context=None)
            server = await nursery.start(run)
            self.port = server.port
            yield
            nursery.cancel_scope.cancel()
        self._subscribers.clear()

    async def notify(self) -> None:
        """Tell subscribers of the head: in order, or with repeats, gaps, removals and lost sockets."""
        head, rng = self.chain.head, self._rng
        said: list[object] = [head, *self.chain.logs[head["hash"]]]
        if rng is not None:
            said += [log | {"removed": True} for log in self.chain.logs[head["hash"]][:1]]
            said = [rng.choice(said) for _ in range(rng.randrange(len(said) + 3))]
            said.append(rng.choice(self.chain.blocks))
        for subscriber in list(self._subscribers):
            try:
                for result in said:
                    message = {"method": "eth_subscription", "params": {"subscription": "0x1", "result": result}}
                    await subscriber.send_message(json.dumps(message))
                if rng is not None and rng.random() < 0.1:
                    await subscriber.aclose()
            except ConnectionClosed:
                pass

    async def _handle(self, request: WebSocketRequest) -> None:
        websocket = await request.accept()
        self.connections += 1
        answers = 0
        try:
            while answers != self.patience:
                answers += 1
                asked = json.loads(await websocket.get_message())
                self.requests.append(asked["method"])
                if self.is_mute:
                    continue
                answer = {"jsonrpc": "2.0", "id": asked["id"], **self._answer(websocket, asked)}
                await websocket.send_message(json.dumps(answer))
            await websocket.aclose()
        except ConnectionClosed:
            pass
        self._subscribers.discard(websocket)

    def _answer(  # noqa: PLR0911 - one for each method
        self, websocket: WebSocketConnection, asked: dict[str, Any]
    ) -> dict[str, Any]:
        chain, parameters = self.chain, asked["params"]
        match asked["method"]:
            case "eth_chainId":
                return {"result": hex(chain.chain_id)}
            case "eth_subscribe":
                self._subscribers.add(websocket)
                return {"result": "0x1"}
            case "eth_getBlockByNumber":
                number = len(chain.blocks) - 1 if parameters[0] == "latest" else int(parameters[0], 16)
                return {"result": chain.blocks[number] if number < len(chain.blocks) else None}
            case "eth_getBlockByHash":
                return {"result": chain.by_hash.get(parameters[0])}
            case "eth_getLogs":
                if self.withheld:
                    self.withheld -= 1
                    return {"result": []}
                return {"result": chain.logs[parameters[0]["blockHash"]]}
            case method:
                return {"error": {"code": -32601, "message": f"no {method}"}}
