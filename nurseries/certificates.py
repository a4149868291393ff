"""The actor that follows the certificate files: renewed ones are served without a restart.

Decides when files are looked at and that a bad pair leaves the old one in place. New connections get the new
certificate, those that are open keep theirs.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LOOK_SECONDS: Final = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def follow_certificates(
    certificate: Path,
    key: Path,
    contexts: Callable[[], Iterable[ssl.SSLContext]],
    *,
    look_seconds: float = LOOK_SECONDS,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Load the files into the contexts whenever their contents change; runs until cancelled."""
    seen = await trio.to_thread.run_sync(_contents, certificate, key)
    task_status.started()
    while True:
        await trio.sleep(look_seconds)
        found = await trio.to_thread.run_sync(_contents, certificate, key)
        if found in (seen, None):
            continue
        seen = found
        try:
            # Tried on a context of its own first: half a renewal must not reach one that serves.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            for context in contexts():
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            log.error("new certificates cannot be used; the old ones stay", error=str(error))  # noqa: TRY400 - no defect
        else:
            log.info("new certificates are served", certificate=str(certificate))


def _contents(*paths: Path) -> tuple[bytes, ...] | None:
    try:
        return tuple(path.read_bytes() for path in paths)
    except OSError:
        return None
