"""The actor that answers probes over HTTP: first up and last down, so that a drain is seen as one.

Decides how the application of ``coproc.health`` is served; what it answers is decided there.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import hypercorn.trio
import structlog
import trio
from hypercorn.config import Config as HypercornConfig

from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GRACE_SECONDS: Final = 1.0
"""How long a probe in flight may take when the service ends."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def run_health(
    app: object,
    host: str,
    port: int,
    *,
    stopping: trio.Event,
    reuse_port: bool = False,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until ``stopping`` is set; ``task_status`` is told the port (0 picks a free one).

    Raises:
        FatalError: the address cannot be listened on.
    """
    listening = _bind(host, port, reuse_port=reuse_port)
    bound: int = listening.getsockname()[1]
    config = HypercornConfig()
    config.bind = [f"fd://{listening.detach()}"]
    config.graceful_timeout = GRACE_SECONDS
    config.include_server_header = False
    config.errorlog = None
    config.accesslog = None
    async with trio.open_nursery() as nursery:
        serve = cast("Callable[..., Awaitable[None]]", vars(hypercorn.trio)["serve"])  # its own type is incomplete
        run = partial(serve, _with_whole_answers(app), config, shutdown_trigger=stopping.wait, mode="asgi")
        await nursery.start(run)
        log.info("listening for probes", host=host, port=bound)
        task_status.started(bound)


def _with_whole_answers(app: object) -> Callable[..., Awaitable[None]]:
    """Let the last message of an answer take its course.

    Quart-Trio cancels a request as soon as Hypercorn calls it over, which is inside that very message: Hypercorn would
    neither close connections that were asked to be closed nor time idle ones.
    """
    answer = cast("Callable[..., Awaitable[None]]", app)

    async def whole(scope: object, receive: object, send: Callable[[object], Awaitable[None]]) -> None:
        async def send_whole(message: object) -> None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE_SECONDS):
                await send(message)

        await answer(scope, receive, send_whole)

    return whole


def _bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise FatalError(f"cannot listen on {host}:{port}: {error.strerror}", port=port) from error
    return bound
