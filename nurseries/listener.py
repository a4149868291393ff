"""The actor that serves gRPC.

Decides how the server starts, reports its port and drains; what calls do is in ``coproc.api``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio
from grpclib.health.check import ServiceStatus
from grpclib.health.service import OVERALL, Health

from coproc.api.server import DrainingServer
from coproc.errors import FatalError
from nurseries.bridge import BridgedService, open_asyncio, run_in_asyncio, run_in_trio

if TYPE_CHECKING:
    import ssl

    from coproc.api.caller import Authenticator
    from coproc.api.service import CoprocessorService

ENDLESS: Final = ("/coproc.v1.CoprocessorService/StreamResults", "/grpc.health.v1.Health/Watch")
"""Calls that the drain ends first, since they never end by themselves."""

CLOSE_SECONDS: Final = 3.0
"""Longest time that closing sockets may take."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Where to listen and how long to drain."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one."""
    drain_seconds: float = 10.0
    """How long calls in flight may take to finish after the stop signal."""
    reuse_port: bool = False
    """Lets the next process listen while this one drains."""
    ssl_context: ssl.SSLContext | None = None
    """Serve TLS; the context must offer the protocol ``h2``."""
    tokens: frozenset[str] = field(default=frozenset(), repr=False)
    """Bearer tokens that callers may use; none: everybody is served."""
    authenticator: Authenticator | None = None
    """Tells tenants by their API keys; then every call must carry one."""


async def run_listener(
    service: CoprocessorService,
    settings: ListenerSettings,
    *,
    stopping: trio.Event,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stopping`` is set, then drain; ``task_status`` is told the port.

    Cancellation ends everything at once. The standard health service says SERVING until the drain begins.

    Raises:
        FatalError: the address cannot be listened on.
    """
    async with open_asyncio():
        serving = ServiceStatus()

        async def start() -> DrainingServer:
            bridged, health = BridgedService(service), Health({OVERALL: [serving]})
            known = settings.authenticator
            authenticate = None if known is None else run_in_trio(known.authenticate)
            server = DrainingServer(
                [bridged, health],
                service.settings.limits,
                tokens=settings.tokens,
                endless=ENDLESS,
                authenticate=authenticate,
            )
            await server.start(
                settings.host, settings.port, ssl=settings.ssl_context, reuse_port=settings.reuse_port or None
            )
            return server

        try:
            server = await run_in_asyncio(start)()
        except OSError as error:
            raise FatalError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", port=settings.port
            ) from error
        try:
            serving.set(True)
            log.info("listening for gRPC", host=settings.host, port=server.port, tls=settings.ssl_context is not None)
            task_status.started(server.port)
            await stopping.wait()
            serving.set(False)
            log.info("draining gRPC", calls=server.calls)
            stragglers = await run_in_asyncio(server.drain)(settings.drain_seconds)
            log.info("gRPC drained", cancelled_calls=stragglers)
        finally:
            # A client that does not read must not hold the process.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await run_in_asyncio(server.abandon)()
