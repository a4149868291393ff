"""One logical connection that outlives servers: a grpclib channel that is replaced when its server goes away.

Decides what is tried again and when. Every call of the API is idempotent, so that trying again is always right; errors
come out as ``coproc.errors``.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeVar

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import Connection as GrpcConnection

from coproc.api.codec import StrictCodec
from coproc.api.details import DetailsCodec, ErrorDetails
from coproc.api.generated.coproc.v1 import CoprocessorServiceStub
from coproc.api.metadata import API_VERSIONS, TOKEN_KEY, VERSION_KEY
from coproc.api.status import DeadlineExceeded, from_status
from coproc.errors import CoprocError, RecoverableError
from coproc.tracing import TRACEPARENT, traceparent

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class ConnectionLost(RecoverableError):
    """The server cannot be reached, or the connection to it broke."""

    rule = "CONNECTION_LOST"


class Connection:
    """Calls one server address, reconnecting as needed; to be used inside one asyncio loop."""

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
        """Connect lazily. ``timeout`` bounds one unary call in seconds; ``attempts`` counts tries of one call."""
        self._address = (host, port)
        self._ssl_context = ssl_context
        self._metadata = {VERSION_KEY: API_VERSIONS[0]}
        if token is not None:
            self._metadata[TOKEN_KEY] = f"Bearer {token}"
        self.timeout = timeout
        self._attempts = attempts
        self._channel: Channel | None = None
        self._retired: dict[Channel, asyncio.TimerHandle] = {}

    @property
    def metadata(self) -> dict[str, str]:
        """What every call carries: version, token, and the span that the caller's program is in, if any."""
        current = traceparent()
        return dict(self._metadata) if current is None else {**self._metadata, TRACEPARENT: current}

    def channel(self) -> Channel:
        """The channel that new calls use."""
        if self._channel is None:
            host, port = self._address
            self._channel = Channel(
                host, port, codec=StrictCodec(), status_details_codec=DetailsCodec(), ssl=self._ssl_context
            )
        return self._channel

    def stub(self, channel: Channel, *, timeout: float | None) -> CoprocessorServiceStub:
        """Generated methods on a channel, with the version and the token in the metadata."""
        return CoprocessorServiceStub(channel, timeout=timeout, metadata=self.metadata)

    def replace(self, channel: Channel) -> None:
        """Stop using a channel for new calls; those that still run on it have the time of one call to finish."""
        if channel is self._channel:
            self._channel = None
            self._retired[channel] = asyncio.get_running_loop().call_later(self.timeout, self._close, channel)

    def _close(self, channel: Channel) -> None:
        self._retired.pop(channel).cancel()
        channel.close()

    def close(self) -> None:
        """Close everything; calls in flight fail with ConnectionLost."""
        for channel in list(self._retired):
            self._close(channel)
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def call(self, attempt: Callable[[Channel], Awaitable[T]]) -> T:
        """Run ``attempt`` on a channel until it succeeds, fails for good, or has been tried often enough.

        Raises:
            CoprocError: the last failure.
        """
        pause = FIRST_PAUSE
        for remaining in range(self._attempts - 1, -1, -1):
            channel = self.channel()
            try:
                return await attempt(channel)
            except Exception as error:
                failure, may_retry = self.judge(error, channel)
                if remaining == 0 or not may_retry:
                    raise failure from error
            await asyncio.sleep(with_jitter(pause))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise ConnectionLost("no attempt was allowed")

    async def unary(self, method: Callable[[CoprocessorServiceStub], Awaitable[T]]) -> T:
        """Run one call of a generated stub, as ``call`` does."""
        return await self.call(lambda channel: method(self.stub(channel, timeout=self.timeout)))

    def judge(self, error: Exception, channel: Channel) -> tuple[CoprocError, bool]:
        """Say what a failed call on ``channel`` means, and whether trying again may help.

        Raises:
            Exception: ``error`` itself, if it is not one of a call.
        """
        if isinstance(error, CoprocError):
            return error, isinstance(error, RecoverableError)
        if isinstance(error, GRPCError):
            failure = from_status(error)
            details = error.details
            may_retry = isinstance(failure, RecoverableError) and (
                type(failure) is RecoverableError
                or (isinstance(details, ErrorDetails) and details.retry_seconds is not None)
            )
            if type(failure) is RecoverableError:
                self.replace(channel)
            return failure, may_retry and not isinstance(failure, DeadlineExceeded)
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"the server did not answer in {self.timeout:g} seconds"), False
        if isinstance(error, StreamTerminatedError | ProtocolError | OSError) or _lost_transport(error):
            self.replace(channel)
            host, port = self._address
            return ConnectionLost(f"the connection to {host}:{port} failed: {error}", host=host, port=port), True
        raise error


def _lost_transport(error: Exception) -> bool:
    """Whether the connection went between grpclib's looking at it and making a stream on it, which it does not say."""
    return isinstance(error, AttributeError) and error.name == "_transport" and isinstance(error.obj, GrpcConnection)


def with_jitter(pause: float) -> float:
    """Spread a pause over 50 to 100 % of its length, so that many clients do not come back at once."""
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - timing, not secrecy
