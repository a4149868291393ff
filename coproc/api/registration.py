"""Receiving a server key: hundreds of megabytes that must arrive whole, be a key, and be allowed here.

Decides the order of checks: nothing is stored before the digest fits and the bytes are a key with allowed parameters.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Final

import trio

from coproc.api.generated.coproc.v1 import RegisterKeyResponse
from coproc.api.validation import check_announcement
from coproc.errors import InvalidInput, Overloaded
from coproc.store.base import KeyRecord
from coproc.tfhe.server_key import parameters_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coproc.api.generated.coproc.v1 import RegisterKeyRequest
    from coproc.api.limits import Limits
    from coproc.api.validation import KeyAnnouncement
    from coproc.keyring import KeyCache
    from coproc.store.base import Store

_CHUNK: Final = 1 << 20


class KeyRegistrar:
    """Takes in keys, a bounded number at a time."""

    def __init__(self, store: Store, keys: KeyCache, limits: Limits, *, allow_insecure_parameters: bool) -> None:
        self._store = store
        self._keys = keys
        self._limits = limits
        self._allow_insecure = allow_insecure_parameters
        self._active = 0

    async def register(self, messages: AsyncIterator[RegisterKeyRequest]) -> RegisterKeyResponse:
        """Receive, check and store one key. A key that is there already is answered at once, without its chunks.

        Raises:
            InvalidInput: the bytes are not what was announced, or no server key that is allowed here.
            Overloaded: too many keys are being received.
            trio.TooSlowError: the client fell silent.
            RecoverableError: the store is out of reach.
        """
        announced = check_announcement(await self._next(messages), self._limits)
        known = await self._store.get_key(announced.sha256)
        if known is not None:
            return RegisterKeyResponse(key_id=known.key_id, is_new=False, parameters=known.parameters)
        if self._active >= self._limits.max_registrations:
            raise Overloaded("other keys are being received; try again", limit="max_registrations")
        self._active += 1
        try:
            data = await self._receive(announced, messages)
            return await self._keep(announced, data)
        finally:
            self._active -= 1

    async def _next(self, messages: AsyncIterator[RegisterKeyRequest]) -> RegisterKeyRequest | None:
        with trio.fail_after(self._limits.idle_seconds):
            return await anext(messages, None)

    async def _receive(self, announced: KeyAnnouncement, messages: AsyncIterator[RegisterKeyRequest]) -> bytes:
        # Memory grows with what has arrived, not with what was announced.
        received, digest = io.BytesIO(), hashlib.sha256()
        while (message := await self._next(messages)) is not None:
            if not message.chunk:
                raise InvalidInput("chunk", "must follow the header and must not be empty")
            if received.tell() + len(message.chunk) > announced.size:
                raise InvalidInput("chunk", f"goes beyond the announced size of {announced.size} bytes")
            received.write(message.chunk)
            digest.update(message.chunk)
        if received.tell() != announced.size:
            raise InvalidInput("header.size", f"is {announced.size}, but {received.tell()} bytes came")
        if digest.digest() != announced.sha256:
            raise InvalidInput("header.sha256", "is not the digest of the bytes that came")
        return received.getvalue()

    async def _keep(self, announced: KeyAnnouncement, data: bytes) -> RegisterKeyResponse:
        key = await self._keys.parse(data)
        if not key.parameters.is_secure and not self._allow_insecure:
            raise InvalidInput("server_key", "has insecure parameters, which this server does not allow")
        record = KeyRecord(announced.sha256, announced.size, parameters_name(key.parameters))
        is_new = await self._store.put_key(record, _Chunks(data))
        self._keys.add(key)
        return RegisterKeyResponse(key_id=record.key_id, is_new=is_new, parameters=record.parameters)


class _Chunks:
    """The bytes of a key in pieces; unlike a generator it may be left half read when the store is cancelled."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._position >= len(self._data):
            raise StopAsyncIteration
        start, self._position = self._position, self._position + _CHUNK
        return self._data[start : self._position]
