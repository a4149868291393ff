"""Steady callers whose answers are known, and the ledger of what was promised to them.

Decides what is asked, and what counts as a failed call, a wrong answer or a lost computation. A caller repeats a call
that failed, as every call may be, until it is told to stop. Eight of our own client's kind (grpclib) and eight of
google's C core (grpcio) make the crowd.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import grpc
import trio

from coproc.client import Transaction
from coproc.errors import CoprocError
from coproc.program.types import FheType, Handle, handle_type, new_handle
from nurseries.bridge import TrioClient, open_client
from tests.api.google_classes import google_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.tfhe.client import ClientKey

SERVICE: Final = "/coproc.v1.CoprocessorService/"
CALL_SECONDS: Final = 60.0
COMPLETED: Final = 5
FAILED: Final = 6

Values: TypeAlias = "dict[Handle, int]"


@dataclass(slots=True)
class Promise:
    """A transaction and what must come of it."""

    draft: Transaction
    expected: Values
    acknowledged: bool = False
    digests: dict[Handle, bytes] = field(default_factory=dict[Handle, bytes])
    """Of results as they were first fetched: they must stay."""


@dataclass(slots=True)
class Job:
    """Inputs, and transactions on them in the order in which they are submitted."""

    inputs: Values
    promises: list[Promise]


@dataclass(slots=True)
class Ledger:
    """What all callers were promised, saw and suffered. Used from many threads."""

    promises: list[Promise] = field(default_factory=list[Promise])
    failed_calls: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    calls: int = 0
    jobs: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def opened(self, promises: list[Promise]) -> None:
        """Note what is about to be submitted."""
        with self._lock:
            self.promises += promises

    def called(self, failure: str | None = None) -> None:
        """Count a call, and note its failure."""
        with self._lock:
            self.calls += 1
            if failure is not None:
                self.failed_calls.append(failure)

    def judge(self, who: str, promise: Promise, handle: Handle, data: bytes, key: ClientKey) -> None:
        """Decrypt a result and compare it with what it must be, and with what it was."""
        digest = hashlib.sha256(data).digest()
        found, expected = key.decrypt(data), promise.expected[handle]
        with self._lock:
            if int(found) != expected:
                self.wrong.append(f"{who}: {handle.hex()} is {found}, not {expected}")
            if promise.digests.setdefault(handle, digest) != digest:
                self.wrong.append(f"{who}: {handle.hex()} has changed since it was first fetched")

    def done(self) -> None:
        """Count a job of which every result was seen."""
        with self._lock:
            self.jobs += 1

    @property
    def acknowledged(self) -> list[Promise]:
        """What must not be lost."""
        with self._lock:
            return [promise for promise in self.promises if promise.acknowledged]


# ------------------------------------------------------------------------------------------------- jobs


def _transfer(key_id: bytes, chance: random.Random) -> Job:
    """Move tokens if there are enough."""
    have, other, amount = (chance.randrange(1 << 16) for _ in range(3))
    a, b, c = (new_handle(FheType.UINT16) for _ in range(3))
    draft = Transaction(key_id)
    enough = draft.ge(a, c)
    moved = draft.if_then_else(enough, c, draft.bit_and(c, 0))
    left, right = draft.sub(a, moved, allow=True), draft.add(b, moved, allow=True)
    sent = amount if have >= amount else 0
    return Job({a: have, b: other, c: amount}, [Promise(draft, {left: have - sent, right: (other + sent) % (1 << 16)})])


def _product(key_id: bytes, chance: random.Random) -> Job:
    """Multiply and divide bytes."""
    x, y = chance.randrange(256), chance.randrange(1, 256)
    a, b = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
    draft = Transaction(key_id)
    product, quotient = draft.mul(a, b, allow=True), draft.div(a, b, allow=True)
    return Job({a: x, b: y}, [Promise(draft, {product: x * y % 256, quotient: x // y})])


def _chain(key_id: bytes, chance: random.Random) -> Job:
    """Feed one transaction from another, which is submitted after it."""
    x, y = chance.randrange(1 << 32), chance.randrange(1 << 32)
    a, b = new_handle(FheType.UINT32), new_handle(FheType.UINT32)
    first, second = Transaction(key_id), Transaction(key_id)
    total = first.add(a, b, allow=True)
    more = second.add(total, 7, allow=True)
    is_less = second.lt(total, a, allow=True)
    value = (x + y) % (1 << 32)
    late = Promise(second, {more: (value + 7) % (1 << 32), is_less: int(value < x)})
    return Job({a: x, b: y}, [late, Promise(first, {total: value})])


JOBS: Final = (_transfer, _product, _chain)


# ----------------------------------------------------------------------------------------------- callers


class Wire(Protocol):
    """The calls that a caller makes, in whatever way; what goes wrong is raised."""

    async def upload(self, key_id: bytes, data: dict[Handle, bytes]) -> None:
        """Upload ciphertexts."""
        ...

    async def submit(self, draft: Transaction) -> None:
        """Submit a transaction."""
        ...

    async def states(self, handles: list[Handle]) -> list[str]:
        """Name the state of each handle; a failed one with its reason."""
        ...

    async def fetch(self, handles: list[Handle]) -> list[bytes]:
        """Fetch ciphertexts."""
        ...


class HelperWire:
    """Our own client."""

    def __init__(self, client: TrioClient) -> None:
        self._client = client

    async def upload(self, key_id: bytes, data: dict[Handle, bytes]) -> None:
        await self._client.upload(key_id, data)

    async def submit(self, draft: Transaction) -> None:
        await self._client.submit(draft)

    async def states(self, handles: list[Handle]) -> list[str]:
        found = await self._client.status(handles)
        return [state.state.value if state.failure is None else f"FAILED: {state.failure}" for state in found]

    async def fetch(self, handles: list[Handle]) -> list[bytes]:
        return [item.ciphertext or b"" for item in await self._client.fetch(handles)]


class CoreWire:
    """Google's C core, from threads; no retries, no waiting for a connection: what it gives by itself."""

    def __init__(self, port: int) -> None:
        # Without its own pool of connections every channel of a process shares one.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    async def _call(self, name: str, kind: str, request: bytes) -> object:
        method = getattr(self._channel, kind)(
            SERVICE + name,
            request_serializer=None,
            response_deserializer=google_class(f"{name}Response").FromString,
        )
        # The core gives up by itself when the call's time is over.
        return await trio.to_thread.run_sync(lambda: _collect(method(request, timeout=CALL_SECONDS)))

    async def upload(self, key_id: bytes, data: dict[Handle, bytes]) -> None:
        items = [{"handle": handle, "ciphertext": ciphertext} for handle, ciphertext in data.items()]
        message = google_class("UploadCiphertextsRequest")(key_id=key_id, items=items)
        await self._call("UploadCiphertexts", "unary_unary", message.SerializeToString())

    async def submit(self, draft: Transaction) -> None:
        await self._call("SubmitComputations", "unary_unary", bytes(draft.request()))

    async def states(self, handles: list[Handle]) -> list[str]:
        message = google_class("GetStatusRequest")(handles=handles)
        answer = await self._call("GetStatus", "unary_unary", message.SerializeToString())
        names = {COMPLETED: "COMPLETED", FAILED: "FAILED"}
        return [f"{names.get(item.state, 'OPEN')}{item.failure or ''}" for item in answer.items]  # type: ignore[attr-defined]

    async def fetch(self, handles: list[Handle]) -> list[bytes]:
        message = google_class("FetchCiphertextsRequest")(handles=handles)
        answer = await self._call("FetchCiphertexts", "unary_stream", message.SerializeToString())
        return [item.ciphertext for item in answer]  # type: ignore[attr-defined]


def _collect(answer: object) -> object:
    return list(answer) if hasattr(answer, "__next__") else answer  # type: ignore[call-overload]


@dataclass(slots=True)
class Crowd:
    """Who calls, how, and for how long."""

    port: int
    key: ClientKey
    key_id: bytes
    ledger: Ledger
    seed: int
    pause: float = 0.2
    stopping: trio.Event = field(default_factory=trio.Event)

    async def helper(self, number: int) -> None:
        """Call through our own client until told to stop."""
        async with open_client("127.0.0.1", self.port) as client:
            await self._call_steadily(f"helper-{number}", HelperWire(client))

    async def core(self, number: int) -> None:
        """Call through grpcio until told to stop."""
        wire = CoreWire(self.port)
        try:
            await self._call_steadily(f"grpcio-{number}", wire)
        finally:
            wire.close()

    async def _call_steadily(self, who: str, wire: Wire) -> None:
        chance = random.Random(f"{self.seed}/{who}")
        while not self.stopping.is_set():
            job = chance.choice(JOBS)(self.key_id, chance)
            await self._run(who, wire, job)
            with trio.move_on_after(self.pause * chance.random() * 2):
                await self.stopping.wait()

    async def _run(self, who: str, wire: Wire, job: Job) -> None:
        bits = {handle: handle_type(handle).bits for handle in job.inputs}
        data = {handle: self.key.encrypt(value, bits[handle], signed=False) for handle, value in job.inputs.items()}
        self.ledger.opened(job.promises)
        if not await self._insist(who, "upload", lambda: wire.upload(self.key_id, data)):
            return
        for promise in job.promises:
            if not await self._insist(who, "submit", lambda draft=promise.draft: wire.submit(draft)):
                return
            promise.acknowledged = True
        for promise in job.promises:
            await self._await(who, wire, promise)
        self.ledger.done()

    async def _await(self, who: str, wire: Wire, promise: Promise) -> None:
        handles = list(promise.expected)
        pause = 0.1
        while True:
            found: list[str] = []

            async def look(into: list[str] = found) -> None:
                into += await wire.states(handles)

            if not await self._insist(who, "status", look):
                return
            if any(state.startswith("FAILED") for state in found):
                self.ledger.wrong.append(f"{who}: {found}")
                return
            if found and all(state == "COMPLETED" for state in found):
                break
            if self.stopping.is_set():  # the end looks at what is left, for everybody
                return
            await trio.sleep(pause)
            pause = min(2.0, 2 * pause)
        fetched: list[bytes] = []

        async def fetch() -> None:
            fetched[:] = await wire.fetch(handles)

        if await self._insist(who, "fetch", fetch):
            for handle, data in zip(handles, fetched, strict=True):
                self.ledger.judge(who, promise, handle, data, self.key)

    async def _insist(self, who: str, what: str, call: Callable[[], object]) -> bool:
        """Call until it succeeds; False if the end came first."""
        while True:
            began = time.monotonic()
            try:
                await call()  # type: ignore[misc]
            except (CoprocError, grpc.RpcError) as error:
                text = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else repr(error)
                self.ledger.called(f"{who} {what} after {time.monotonic() - began:.2f} s: {text}")
                if self.stopping.is_set():
                    return False
                await trio.sleep(0.5)
            else:
                self.ledger.called()
                return True


async def register(port: int, server_key: bytes) -> bytes:
    """Register the key that everybody uses."""
    async with open_client("127.0.0.1", port) as client:
        return await client.register_key(server_key)
