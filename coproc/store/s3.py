"""An S3-compatible object store, over HTTP.

Decides addresses (path style, which every such store understands), signatures (botocore's, with its chain of
credentials), time limits, and what answers mean. Whether to ask at all, or again, is decided by ``depot``.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx
import trio
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from coproc.store.objects import ObjectLocked, ObjectLost, ObjectStoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.store.objects import ObjectSettings

CALL_SECONDS: Final = 60.0
"""The most that one call may take."""
TIMEOUT: Final = httpx.Timeout(20.0, connect=5.0)
LIMITS: Final = httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=20.0)
_NOTHING: Final = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
_CODE: Final = re.compile(rb"<Code>(\w{1,64})</Code>")
_ANSWER_BYTES: Final = 4096
_PIECE_BYTES: Final = 1 << 18
"""What must go out within the time limit of a write."""


class _Signer(S3SigV4Auth):
    """Signs over a digest that is known already, at a moment by the object store's clock."""

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        request.context["timestamp"] = request.context["moment"].strftime("%Y%m%dT%H%M%SZ")
        # The stubs leave it out.
        super()._modify_request_before_signing(request)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def payload(self, request: AWSRequest) -> str:
        digest: str = request.context["digest"]
        return digest


class _Body(httpx.AsyncByteStream):
    """The bytes of a request, in pieces. No generator, like httpx's own: it would not end in order when cancelled."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._sent = 0

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        piece = self._data[self._sent : self._sent + _PIECE_BYTES]
        if not piece:
            raise StopAsyncIteration
        self._sent += len(piece)
        return piece


class S3Objects:
    """``ObjectStore`` in one bucket."""

    def __init__(self, settings: ObjectSettings) -> None:
        """Ask nothing yet.

        Without keys, botocore looks for credentials where all programs for S3 do: variables ``AWS_...``, files, the
        identity of a pod or machine.
        """
        self._url = settings.url.rstrip("/")
        self._region = settings.region
        keys = (settings.access_key, settings.secret_key)
        self._credentials = Credentials(keys[0], keys[1]) if keys[0] and keys[1] else None
        self._skew = timedelta()
        """How far the object store's clock is ahead of ours: it refuses signatures of another quarter of an hour."""
        self._client = httpx.AsyncClient(timeout=TIMEOUT, limits=LIMITS, headers={"accept-encoding": "identity"})

    async def put(self, name: str, data: bytes, digest: bytes) -> None:
        """Store bytes; the signature covers their digest. See ``ObjectStore.put``."""
        async with self._call("PUT", name, digest, data) as response:
            if not response.is_success:
                raise _unavailable(response, await _code(response))

    async def get(self, name: str, size: int) -> bytes:
        """Read an object, and never much more than ``size`` bytes; see ``ObjectStore.get``."""
        async with self._call("GET", name) as response:
            if response.status_code != 200:
                code = await _code(response)
                if _is_absent(response, code):
                    raise ObjectLost("the object store has no such object", object=name)
                raise _unavailable(response, code)
            data = await _read(response, size)
            if data is None:
                raise ObjectLost("the object store has more bytes than were stored", object=name)
            return data

    async def delete(self, name: str) -> None:
        """Delete an object; see ``ObjectStore.delete``."""
        async with self._call("DELETE", name) as response:
            if not response.is_success:
                code = await _code(response)
                if response.status_code == 403:
                    raise ObjectLocked(f"the object store refuses to delete an object: {code}", object=name)
                if not _is_absent(response, code):
                    raise _unavailable(response, code)

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def _call(
        self, method: str, name: str, digest: bytes = _NOTHING, data: bytes = b""
    ) -> AsyncGenerator[httpx.Response]:
        """Send a signed request; the block reads the answer. Foreign errors leave it translated."""
        url = f"{self._url}/{name}"
        try:
            with trio.fail_after(CALL_SECONDS):
                # On a thread: credentials of a machine or pod are fetched, and renewed before they expire.
                headers = await trio.to_thread.run_sync(
                    partial(self._sign, method, url, digest), abandon_on_cancel=True
                )
                request = self._client.build_request(method, url, headers=headers)
                if data:
                    request.headers["content-length"] = str(len(data))
                    request.stream = _Body(data)
                response = await self._client.send(request, stream=True)
                try:
                    yield response
                finally:
                    if response.status_code in {400, 403}:
                        self._set_clock(response.headers.get("date"))
                    await response.aclose()
        except trio.TooSlowError as error:
            raise ObjectStoreUnavailable("object store: no answer in time") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            text = str(error) or type(error).__name__
            raise ObjectStoreUnavailable(f"object store: {text}") from error
        except BotoCoreError as error:
            raise ObjectStoreUnavailable(f"object store: credentials: {error}") from error

    def _set_clock(self, date: str | None) -> None:
        """Go by the object store's clock from now on: ours may be why it refuses, and the next attempt has its time."""
        with suppress(TypeError, ValueError):
            self._skew = parsedate_to_datetime(date or "") - datetime.now(UTC)

    def _sign(self, method: str, url: str, digest: bytes) -> dict[str, str]:
        """Make the headers of a request."""
        credentials = self._credentials or Session().get_credentials()
        if credentials is None:
            raise ObjectStoreUnavailable("object store: no credentials")
        self._credentials = credentials
        request = AWSRequest(method, url)
        request.context["digest"] = digest.hex()
        request.context["moment"] = datetime.now(UTC) + self._skew
        _Signer(credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return {str(key): str(value) for key, value in request.headers.items()}


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    """Read an answer; None if it is longer than ``limit`` bytes."""
    data = bytearray()
    # Not left early: the generators inside httpx end in order only if they are cancelled.
    with trio.CancelScope() as scope:
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                scope.cancel(reason="the answer is too long")
    return bytes(data) if len(data) <= limit else None


async def _code(response: httpx.Response) -> str:
    """Read what S3 calls the error; empty where the answer names none."""
    match = _CODE.search(await _read(response, _ANSWER_BYTES) or b"")
    return match[1].decode() if match else ""


def _is_absent(response: httpx.Response, code: str) -> bool:
    return response.status_code == 404 and code in {"", "NoSuchKey"}


def _unavailable(response: httpx.Response, code: str) -> ObjectStoreUnavailable:
    """Turn any other answer into an error. What it means is for the operator; it may pass once that is done."""
    return ObjectStoreUnavailable(
        f"object store: {response.status_code} {code or response.reason_phrase}".rstrip(), status=response.status_code
    )
