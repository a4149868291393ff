"""The client's calls.

Decides how large requests are cut to a server's limits, how a key is streamed and how results are followed. The
connection, with its retries, is ``coproc.client.connection``.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final, Self, TypeVar

from grpclib.const import Cardinality

from coproc.api.generated.coproc.v1 import (
    CancelTransactionRequest,
    CiphertextUpload,
    FetchCiphertextsRequest,
    GetServerInfoRequest,
    GetStatusRequest,
    KeyHeader,
    RegisterKeyRequest,
    RegisterKeyResponse,
    StreamResultsRequest,
    StreamResultsResponse,
    TrivialEncryptRequest,
    TrivialValue,
    UploadCiphertextsRequest,
    UploadInputsRequest,
)
from coproc.api.generated.coproc.v1 import InputBinding as WireInputBinding
from coproc.api.metadata import API_VERSIONS
from coproc.api.status import DeadlineExceeded
from coproc.client.connection import FIRST_PAUSE, LONGEST_PAUSE, Connection, ConnectionLost, with_jitter
from coproc.client.records import (
    ComputationFailed,
    FetchedCiphertext,
    HandleState,
    Result,
    ServerInfo,
    State,
    UploadedInputs,
    read_fetched,
    read_result,
    read_server_info,
    read_status,
)
from coproc.errors import NotFound
from coproc.program.types import Handle, handle_type

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence

    from grpclib.client import Channel

    from coproc.client.transaction import Transaction
    from coproc.program.inputs import InputBinding

T = TypeVar("T")

SERVICE: Final = "/coproc.v1.CoprocessorService"
KEY_CHUNK: Final = 1 << 20
KEY_SECONDS: Final = 3600.0
"""Longest time that the sending of a key may take."""
UPLOAD_BYTES: Final = 8 << 20
"""Ciphertext bytes put into one message, unless a single one is larger."""
HANDLES_AT_ONCE: Final = 256
TRIVIAL_BLOCKS: Final = 2048
"""2-bit blocks of public values put into one message: the server makes 16 KiB of each, and bounds the sum."""
WAIT_FIRST: Final = 0.02
WAIT_LONGEST: Final = 1.0


class CoprocClient:
    """A client of one server, to be used as an async context manager inside asyncio.

    Calls are tried again across restarts and overload; what is raised is a ``CoprocError``: InvalidInput, NotFound,
    Overloaded, DeadlineExceeded, UnsupportedVersion, Unauthenticated, or RecoverableError when trying has not helped.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 60.0,
        attempts: int = 8,
    ) -> None:
        """``timeout`` bounds one unary call in seconds; ``attempts`` is how often a call is tried."""
        self._connection = Connection(
            host, port, token=token, ssl_context=ssl_context, timeout=timeout, attempts=attempts
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._connection.close()

    async def server_info(self) -> ServerInfo:
        """Ask what the server is. Raises UnsupportedVersion if it does not understand this client."""
        request = GetServerInfoRequest(api_version=API_VERSIONS[0])
        return read_server_info(await self._connection.unary(lambda stub: stub.get_server_info(request)))

    async def register_key(self, data: bytes, progress: Callable[[int, int], None] | None = None) -> bytes:
        """Register a serialized compressed server key and return its key id.

        ``progress`` is told bytes done and bytes in all. A key that the server has is not sent again.
        """
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        response = await self._connection.call(lambda channel: self._send_key(channel, data, digest, progress))
        if progress is not None:
            progress(len(data), len(data))
        return response.key_id

    async def _send_key(
        self, channel: Channel, data: bytes, digest: bytes, progress: Callable[[int, int], None] | None
    ) -> RegisterKeyResponse:
        async with channel.request(
            f"{SERVICE}/RegisterKey",
            Cardinality.STREAM_UNARY,
            RegisterKeyRequest,
            RegisterKeyResponse,
            timeout=KEY_SECONDS,
            metadata=self._connection.metadata,
        ) as stream:
            await stream.send_message(RegisterKeyRequest(header=KeyHeader(size=len(data), sha256=digest)))
            # The server answers early if it has the key.
            answered = asyncio.create_task(stream.recv_initial_metadata())
            try:
                for start in range(0, len(data), KEY_CHUNK):
                    if answered.done():
                        break
                    if progress is not None:
                        progress(start, len(data))
                    await stream.send_message(RegisterKeyRequest(chunk=data[start : start + KEY_CHUNK]))
                await stream.end()
                await answered
            finally:
                answered.cancel()
                await asyncio.gather(answered, return_exceptions=True)
            response = await stream.recv_message()
        assert response is not None  # noqa: S101 - grpclib raises otherwise
        return response

    async def upload(self, key_id: bytes, ciphertexts: Mapping[Handle, bytes]) -> int:
        """Upload encrypted inputs, in as many messages as it takes; returns how many were new."""
        items = [CiphertextUpload(handle=handle, ciphertext=data) for handle, data in ciphertexts.items()]
        stored = 0
        for batch in _batches(items, lambda item: len(item.ciphertext), UPLOAD_BYTES):
            stored += await self._upload(UploadCiphertextsRequest(key_id=key_id, items=batch))
        return stored

    async def _upload(self, request: UploadCiphertextsRequest) -> int:
        return (await self._connection.unary(lambda stub: stub.upload_ciphertexts(request))).stored

    async def upload_inputs(self, key_id: bytes, data: bytes, binding: InputBinding | None = None) -> UploadedInputs:
        """Upload values encrypted together under a compact public key.

        Args:
            key_id: of the server key that belongs to the public key.
            data: ``CompactCiphertextList`` or ``ProvenCompactCiphertextList``, serialized.
            binding: contract, user, ACL and chain that they are for; None: for no chain.
        """
        request = UploadInputsRequest(key_id=key_id, ciphertext_list=data)
        if binding is not None:
            request.binding = WireInputBinding(
                contract_address=binding.contract,
                user_address=binding.user,
                acl_address=binding.acl,
                chain_id=binding.chain_id,
            )
        response = await self._connection.unary(lambda stub: stub.upload_inputs(request))
        handles = tuple(Handle(handle) for handle in response.handles)
        return UploadedInputs(handles, response.transaction_id, response.accepted)

    async def trivial_encrypt(self, key_id: bytes, values: Mapping[Handle, int]) -> int:
        """Make ciphertexts of public values, negative ones in two's complement; returns how many were new."""
        items = [TrivialValue(handle=handle, value=_clear_bytes(handle, value)) for handle, value in values.items()]
        stored = 0
        for batch in _batches(items, lambda item: handle_type(Handle(item.handle)).blocks, TRIVIAL_BLOCKS):
            stored += await self._trivial_encrypt(TrivialEncryptRequest(key_id=key_id, items=batch))
        return stored

    async def _trivial_encrypt(self, request: TrivialEncryptRequest) -> int:
        return (await self._connection.unary(lambda stub: stub.trivial_encrypt(request))).stored

    async def submit(self, transaction: Transaction, seconds: float | None = None) -> int:
        """Submit a graph; returns how many computations were new. When it returns, nothing is lost any more.

        What is not done within ``seconds`` fails with the rule ``DEADLINE_EXCEEDED``.
        """
        request = transaction.request()
        request.compute_milliseconds = 0 if seconds is None else max(1, round(seconds * 1000))
        return (await self._connection.unary(lambda stub: stub.submit_computations(request))).accepted

    async def cancel(self, transaction_id: bytes) -> int:
        """Cancel what is not done of a transaction; returns how many computations that were. Raises NotFound."""
        request = CancelTransactionRequest(transaction_id=transaction_id)
        return (await self._connection.unary(lambda stub: stub.cancel_transaction(request))).cancelled

    async def status(self, handles: Sequence[Handle]) -> list[HandleState]:
        """Ask how handles are doing, in order."""
        states: list[HandleState] = []
        for start in range(0, len(handles), HANDLES_AT_ONCE):
            batch = list(handles[start : start + HANDLES_AT_ONCE])
            states += await self._status(GetStatusRequest(handles=[*batch]))
        return states

    async def transaction_status(self, transaction_id: bytes) -> list[HandleState]:
        """Ask how all computations of a transaction are doing. Raises NotFound."""
        return await self._status(GetStatusRequest(transaction_id=transaction_id))

    async def _status(self, request: GetStatusRequest) -> list[HandleState]:
        response = await self._connection.unary(lambda stub: stub.get_status(request))
        return [read_status(item) for item in response.items]

    async def fetch(self, handles: Sequence[Handle], *, accept_compressed: bool = False) -> list[FetchedCiphertext]:
        """Fetch what can be read under handles: one record each, in order.

        ``accept_compressed`` takes what the server stores compressed as it is, which is small and comes at once.
        """
        fetched: list[FetchedCiphertext] = []

        async def attempt(channel: Channel) -> None:
            # What has arrived before a failure is not asked for again.
            while len(fetched) < len(handles):
                before = len(fetched)
                request = FetchCiphertextsRequest(
                    handles=[*handles[before : before + HANDLES_AT_ONCE]], accept_compressed=accept_compressed
                )
                stub = self._connection.stub(channel, timeout=None)
                async for message in stub.fetch_ciphertexts(request):
                    fetched.append(read_fetched(message))  # noqa: PERF401 - must be kept if the stream breaks
                if len(fetched) == before:
                    raise ConnectionLost("the server ended the stream without an answer")

        await self._connection.call(attempt)
        return fetched

    async def results(
        self, after_sequence: int = 0, transaction_ids: Sequence[bytes] = ()
    ) -> AsyncGenerator[Result, None]:
        """Follow results in sequence order, for ever, across restarts; end it with ``contextlib.aclosing``.

        Raises:
            CoprocError: the server refuses the subscription; being out of reach is waited out.
        """
        pause = FIRST_PAUSE
        while True:
            channel = self._connection.channel()
            request = StreamResultsRequest(after_sequence=after_sequence, transaction_ids=list(transaction_ids))
            try:
                async with channel.request(
                    f"{SERVICE}/StreamResults",
                    Cardinality.UNARY_STREAM,
                    StreamResultsRequest,
                    StreamResultsResponse,
                    metadata=self._connection.metadata,
                ) as stream:
                    await stream.send_message(request, end=True)
                    async for message in stream:
                        result = read_result(message)
                        yield result
                        after_sequence, pause = result.sequence, FIRST_PAUSE
            except Exception as error:
                failure, may_retry = self._connection.judge(error, channel)
                if not may_retry:
                    raise failure from error
            await asyncio.sleep(with_jitter(pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def wait(self, handles: Sequence[Handle], seconds: float | None = None) -> list[HandleState]:
        """Wait until every handle is completed.

        Raises:
            ComputationFailed: one has failed.
            NotFound: nothing is known of one.
            DeadlineExceeded: ``seconds`` have passed.
        """
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        pause = WAIT_FIRST
        while True:
            states = await self.status(handles)
            for state in states:
                if state.failure is not None and state.state is State.FAILED:
                    raise ComputationFailed(state.handle, state.failure)
                if state.state is State.UNKNOWN:
                    raise NotFound(f"nothing is known of handle {state.handle.hex()}", handle=state.handle.hex())
            if all(state.state is State.COMPLETED for state in states):
                return states
            if deadline is not None and loop.time() + pause > deadline:
                raise DeadlineExceeded(f"not completed in {seconds:g} seconds")
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, WAIT_LONGEST)


def _clear_bytes(handle: Handle, value: int) -> bytes:
    bits = handle_type(handle).bits
    return (value & ((1 << bits) - 1)).to_bytes((bits + 7) // 8, "big")


def _batches(items: Iterable[T], weight: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Cut into lists of bounded length and weight; an item heavier than the limit goes alone."""
    batch: list[T] = []
    size = 0
    for item in items:
        if batch and (len(batch) >= HANDLES_AT_ONCE or size + weight(item) > limit):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += weight(item)
    if batch:
        yield batch
