"""JSON-RPC to a node: requests are numbered, bounded and timed, answers find their requests.

Decides what an answer is and what an error means. Opens no connection: ``Session`` is given a way to send and is handed
what arrives; over HTTP each request is an exchange of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Protocol, cast

import httpx
import trio

from coproc.chain.blocks import NodeFault, read_header, read_logs, read_quantity
from coproc.chain.follow import ByHash

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from coproc.chain.blocks import Header, Json, Log
    from coproc.chain.events import Contracts
    from coproc.chain.follow import Request


class Node(Protocol):
    """One node that answers."""

    async def call(self, method: str, *parameters: Json) -> Json:
        """Ask. Raises NodeFault."""
        ...

    async def wait(self, seconds: float) -> None:
        """Wait until the node has something to tell, or ``seconds`` have passed."""
        ...


@dataclass(slots=True)
class _Waiting:
    done: trio.Event = field(default_factory=trio.Event)
    answer: dict[str, Json] | None = None


class Session:
    """A node behind a connection that carries messages both ways."""

    def __init__(self, send: Callable[[str], Awaitable[None]], *, seconds: float, in_flight: int) -> None:
        self._send = send
        self._seconds = seconds
        self._slots = trio.Semaphore(in_flight)
        self._numbers = count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._news = trio.Event()
        self._lost: str | None = None

    async def call(self, method: str, *parameters: Json) -> Json:
        """Ask; see ``Node.call``."""
        async with self._slots:
            if self._lost is not None:
                raise NodeFault(self._lost)
            number = next(self._numbers)
            waiting = self._waiting[number] = _Waiting()
            try:
                with trio.fail_after(self._seconds):
                    await self._send(_request(number, method, parameters))
                    await waiting.done.wait()
            except trio.TooSlowError:
                raise NodeFault(f"the node gave no answer in {self._seconds} s", method=method) from None
            finally:
                del self._waiting[number]
        if waiting.answer is None:
            raise NodeFault(self._lost or "the connection was lost")
        return _result(waiting.answer, method)

    async def wait(self, seconds: float) -> None:
        """Wait for news; see ``Node.wait``."""
        with trio.move_on_after(seconds):
            await self._news.wait()
        self._news = trio.Event()
        if self._lost is not None:
            raise NodeFault(self._lost)

    def received(self, text: str | bytes) -> None:
        """Take a message in: an answer, or a notification, of which only counts that there is one."""
        try:
            message = cast("Json", json.loads(text))
        except (ValueError, RecursionError):
            self.lose("the node sent what is no JSON")
            return
        if not isinstance(message, dict):
            return
        number = message.get("id")
        if isinstance(number, int) and number in self._waiting:
            self._waiting[number].answer = message
            self._waiting[number].done.set()
        elif message.get("method") == "eth_subscription":
            self._news.set()

    def lose(self, reason: str) -> None:
        """Fail everything that waits, and everything to come."""
        self._lost = self._lost or reason
        self._news.set()
        for waiting in self._waiting.values():
            waiting.done.set()


class HttpNode:
    """A node that is asked over HTTP and tells nothing by itself."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, in_flight: int) -> None:
        self._client = client
        self._url = url
        self._slots = trio.Semaphore(in_flight)
        self._numbers = count(1)

    async def call(self, method: str, *parameters: Json) -> Json:
        """Ask; see ``Node.call``."""
        async with self._slots:
            try:
                answer = await self._client.post(
                    self._url,
                    content=_request(next(self._numbers), method, parameters),
                    headers={"content-type": "application/json"},
                )
                message = cast("Json", answer.json())
            except httpx.HTTPError as error:
                raise NodeFault(f"the node cannot be asked: {type(error).__name__}", method=method) from error
            except (ValueError, RecursionError):
                raise NodeFault("the node sent what is no JSON", method=method) from None
        if not isinstance(message, dict):
            raise NodeFault("the node's answer is no object", method=method, status=answer.status_code)
        return _result(message, method)

    async def wait(self, seconds: float) -> None:
        """Wait; see ``Node.wait``."""
        await trio.sleep(seconds)


async def check_chain(node: Node, chain_id: int) -> None:
    """Make sure that a node is one of the right chain. Raises NodeFault."""
    found = read_quantity(await node.call("eth_chainId"), "chain id")
    if found != chain_id:
        raise NodeFault(f"the node is one of chain {found}", chain_id=chain_id)


async def subscribe(node: Node, contracts: Contracts) -> None:
    """Ask to be told of new blocks and of events. Raises NodeFault."""
    await node.call("eth_subscribe", "newHeads")
    await node.call("eth_subscribe", "logs", {"address": _addresses(contracts)})


async def get_head(node: Node, confirmations: int) -> Header | None:
    """Ask for the newest block that counts; None if the chain is too short."""
    head = read_header(await node.call("eth_getBlockByNumber", "latest", False))
    if not confirmations:
        return head
    number = head.number - confirmations
    if number < 0:
        return None
    answer = await node.call("eth_getBlockByNumber", hex(number), False)
    return None if answer is None else read_header(answer)


async def get_header(node: Node, request: Request) -> Header | None:
    """Ask for one header; None if the node does not know it. Raises NodeFault."""
    if isinstance(request, ByHash):
        answer = await node.call("eth_getBlockByHash", "0x" + request.hash.hex(), False)
    else:
        answer = await node.call("eth_getBlockByNumber", hex(request.number), False)
    return None if answer is None else read_header(answer)


async def get_logs(node: Node, header: Header, contracts: Contracts) -> tuple[Log, ...]:
    """Ask for the contracts' events in one block, named by its hash, so that they are those of no other. May lie."""
    asked: dict[str, Json] = {"blockHash": "0x" + header.hash.hex(), "address": _addresses(contracts)}
    return read_logs(await node.call("eth_getLogs", asked), header.hash)


def _addresses(contracts: Contracts) -> Sequence[Json]:
    return ["0x" + contracts.executor.hex(), "0x" + contracts.acl.hex()]


def _request(number: int, method: str, parameters: Sequence[Json]) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": list(parameters)})


def _result(message: dict[str, Json], method: str) -> Json:
    error = message.get("error")
    if error is not None:
        said = error.get("message") if isinstance(error, dict) else error
        raise NodeFault(f"the node refused {method}: {str(said)[:200]}", method=method)
    if "result" not in message:
        raise NodeFault(f"the node's answer to {method} has no result", method=method)
    return message["result"]
