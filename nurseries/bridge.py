"""The bridge between Trio and the asyncio library that speaks gRPC: the only module that knows both.

Decides how a loop is opened, how errors in it are kept from killing the service, and how calls cross in both
directions. Handlers run as Trio tasks and see client cancellation and deadlines as ``trio.Cancelled``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar, cast

import grpclib.utils
import structlog
import trio
import trio_asyncio
from grpclib.const import Cardinality
from grpclib.const import Handler as Method

from coproc.api.generated.coproc.v1 import CoprocessorServiceBase
from coproc.api.status import leaves
from coproc.client import CoprocClient
from coproc.errors import InvalidInput

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextvars import ContextVar

    from grpclib.server import Stream

    from coproc.api.service import CoprocessorService
    from coproc.client import (
        FetchedCiphertext,
        HandleState,
        InputBinding,
        Result,
        ServerInfo,
        Transaction,
        UploadedInputs,
    )
    from coproc.program.types import Handle

    AnyStream = Stream[object, object]

CLOSE_SECONDS: Final = 5.0
"""Longest time that closing may take once everything else is over."""

P = ParamSpec("P")
T = TypeVar("T")

if sys.version_info >= (3, 12):
    # Since 3.12 this is written in C, which does not see the loop that trio-asyncio puts in place; the same function in
    # Python does, for every loop.
    _in_python = vars(asyncio.tasks)["_py_current_task"]
    asyncio.current_task = asyncio.tasks.current_task = _in_python
    vars(grpclib.utils)["_current_task"] = _in_python

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Adapter(Protocol):
    """trio-asyncio has no types; this is what its two adapters do."""

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Make a function of one world callable from the other."""
        ...


run_in_asyncio = cast("_Adapter", vars(trio_asyncio)["aio_as_trio"])
"""Make an asyncio function callable from Trio: ``await run_in_asyncio(function)(*args)``."""
run_in_trio = cast("_Adapter", vars(trio_asyncio)["trio_as_aio"])
"""Make a Trio function callable from asyncio: ``await run_in_trio(function)(*args)``."""


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    # The default handler raises into the loop's nursery: one broken connection would end everything.
    error = context.get("exception")
    log.error(
        "error in the asyncio loop",
        message=str(context.get("message")),
        exc_info=error if isinstance(error, BaseException) else None,
    )


@asynccontextmanager
async def open_asyncio() -> AsyncGenerator[asyncio.AbstractEventLoop]:
    """Open an asyncio loop inside the current Trio task; it ends with the block, and what runs in it is cancelled.

    A single error of the block comes out as itself, not wrapped by the nurseries that the loop lives in.
    """
    open_loop = cast("Callable[[], _LoopContext]", vars(trio_asyncio)["open_loop"])
    try:
        async with open_loop() as loop:
            loop.set_exception_handler(_log_loop_error)
            yield loop
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        if len(errors) == 1:
            raise errors[0] from errors[0].__cause__
        raise


async def _run_on(
    loop: asyncio.AbstractEventLoop, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run an asyncio function on a certain loop, even if another one was opened since."""
    current = cast("ContextVar[asyncio.AbstractEventLoop | None]", vars(trio_asyncio)["current_loop"])
    token = current.set(loop)
    try:
        return await run_in_asyncio(function)(*args, **kwargs)
    finally:
        current.reset(token)


class _LoopContext(Protocol):
    async def __aenter__(self) -> asyncio.AbstractEventLoop: ...

    async def __aexit__(self, *error: object) -> bool | None: ...


class BridgedService:
    """The coprocessor's service as grpclib serves it: every call becomes a Trio task that runs a handler."""

    def __init__(self, service: CoprocessorService) -> None:
        self._service = service

    def __mapping__(self) -> Mapping[str, Method]:
        """Name every method of the contract, with its handler behind it."""
        contract = cast("Mapping[str, Method]", CoprocessorServiceBase().__mapping__())
        return {
            path: method._replace(func=_serve(method, getattr(self._service, _handler_name(path))))
            for path, method in contract.items()
        }


def _serve(method: Method, handler: Callable[..., Awaitable[object]]) -> Callable[[AnyStream], Awaitable[None]]:
    """Wrap a Trio handler as grpclib calls it, according to who streams."""
    in_trio = run_in_trio(handler)

    async def unary(stream: AnyStream) -> None:
        await stream.send_message(await in_trio(await _only_message(stream)))

    async def client_streaming(stream: AnyStream) -> None:
        await stream.send_message(await in_trio(_Messages(run_in_asyncio(stream.recv_message))))

    async def server_streaming(stream: AnyStream) -> None:
        await in_trio(await _only_message(stream), run_in_asyncio(stream.send_message))

    kinds = {
        Cardinality.UNARY_UNARY: unary,
        Cardinality.STREAM_UNARY: client_streaming,
        Cardinality.UNARY_STREAM: server_streaming,
    }
    return kinds[cast("Cardinality", method.cardinality)]


class _Messages:
    """The messages of a client, to be iterated from Trio."""

    def __init__(self, receive: Callable[[], Awaitable[object | None]]) -> None:
        self._receive = receive

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        message = await self._receive()
        if message is None:
            raise StopAsyncIteration
        return message


async def _only_message(stream: AnyStream) -> object:
    request = await stream.recv_message()
    if request is None:
        raise InvalidInput("request", "must be one message, none came")
    return request


def _handler_name(path: str) -> str:
    """Name the handler of a method: ``/coproc.v1.CoprocessorService/GetStatus`` is served by ``get_status``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", path.rpartition("/")[2]).lower()


class TrioClient:
    """``CoprocClient`` for Trio programs: the same calls, the same errors. Made by ``open_client``."""

    def __init__(self, client: CoprocClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    async def server_info(self) -> ServerInfo:
        """Ask what the server is."""
        return await _run_on(self._loop, self._client.server_info)

    async def register_key(self, data: bytes, progress: Callable[[int, int], None] | None = None) -> bytes:
        """Register a server key and return its key id."""
        return await _run_on(self._loop, self._client.register_key, data, progress)

    async def upload(self, key_id: bytes, ciphertexts: Mapping[Handle, bytes]) -> int:
        """Upload encrypted inputs; returns how many were new."""
        return await _run_on(self._loop, self._client.upload, key_id, ciphertexts)

    async def upload_inputs(self, key_id: bytes, data: bytes, binding: InputBinding | None = None) -> UploadedInputs:
        """Upload values encrypted together under a compact public key."""
        return await _run_on(self._loop, self._client.upload_inputs, key_id, data, binding)

    async def trivial_encrypt(self, key_id: bytes, values: Mapping[Handle, int]) -> int:
        """Make ciphertexts of public values; returns how many were new."""
        return await _run_on(self._loop, self._client.trivial_encrypt, key_id, values)

    async def submit(self, transaction: Transaction, seconds: float | None = None) -> int:
        """Submit a graph, wanted within ``seconds``; returns how many computations were new."""
        return await _run_on(self._loop, self._client.submit, transaction, seconds)

    async def cancel(self, transaction_id: bytes) -> int:
        """Cancel what is not done of a transaction; returns how many computations that were."""
        return await _run_on(self._loop, self._client.cancel, transaction_id)

    async def status(self, handles: Sequence[Handle]) -> list[HandleState]:
        """Ask how handles are doing, in order."""
        return await _run_on(self._loop, self._client.status, handles)

    async def transaction_status(self, transaction_id: bytes) -> list[HandleState]:
        """Ask how all computations of a transaction are doing."""
        return await _run_on(self._loop, self._client.transaction_status, transaction_id)

    async def fetch(self, handles: Sequence[Handle], *, accept_compressed: bool = False) -> list[FetchedCiphertext]:
        """Fetch what can be read under handles: one record each, in order."""
        return await _run_on(self._loop, partial(self._client.fetch, accept_compressed=accept_compressed), handles)

    async def wait(self, handles: Sequence[Handle], seconds: float | None = None) -> list[HandleState]:
        """Wait until every handle is completed; raises as ``CoprocClient.wait`` does."""
        return await _run_on(self._loop, self._client.wait, handles, seconds)

    @asynccontextmanager
    async def results(
        self, after_sequence: int = 0, transaction_ids: Sequence[bytes] = ()
    ) -> AsyncGenerator[AsyncIterator[Result]]:
        """Follow results while the block lasts: ``async with client.results() as results: async for ...``."""
        source = self._client.results(after_sequence, transaction_ids)
        try:
            yield _Results(partial(_run_on, self._loop, source.__anext__))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await _run_on(self._loop, source.aclose)


class _Results:
    """Results of an asyncio generator, to be iterated from Trio."""

    def __init__(self, receive: Callable[[], Awaitable[Result]]) -> None:
        self._receive = receive

    def __aiter__(self) -> AsyncIterator[Result]:
        return self

    async def __anext__(self) -> Result:
        return await self._receive()


@asynccontextmanager
async def open_client(
    host: str,
    port: int,
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 60.0,  # noqa: ASYNC109 - of every single call, not of the block
    attempts: int = 8,
) -> AsyncGenerator[TrioClient]:
    """Open a client of one server inside a Trio program; it closes with the block."""

    async def make() -> CoprocClient:
        return CoprocClient(host, port, token=token, ssl_context=ssl_context, timeout=timeout, attempts=attempts)

    async with open_asyncio() as loop:
        client = await _run_on(loop, make)
        try:
            yield TrioClient(client, loop)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await _run_on(loop, client.__aexit__)
