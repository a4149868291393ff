"""Probes are answered over a real socket until the stop, and an address that is taken is said at once."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from coproc.errors import FatalError
from coproc.health.app import make_app
from coproc.health.report import ActorReport, HealthReport
from nurseries.health import GRACE_SECONDS, run_health

DRAINING = HealthReport(started=True, ready=False, draining=True, actors={"store": ActorReport("running", True)})


async def status_of(port: int, path: str) -> int:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        async for chunk in stream:
            answer += chunk
    assert b"\r\nserver:" not in answer.lower()
    return int(answer.split()[1])


async def test_a_drain_is_answered_until_the_stop_and_refused_after_it() -> None:
    stopping = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            run = partial(run_health, make_app(lambda: DRAINING), "127.0.0.1", 0, stopping=stopping)
            port: int = await nursery.start(run)
            assert await status_of(port, "/livez") == 200
            assert await status_of(port, "/readyz") == 503
            stopping.set()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_an_address_in_use_is_fatal() -> None:
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        with pytest.raises(FatalError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await run_health(make_app(lambda: DRAINING), "127.0.0.1", port, stopping=trio.Event())


async def test_an_idle_connection_ends_with_the_service_and_does_not_hold_it() -> None:
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        run = partial(run_health, make_app(lambda: DRAINING), "127.0.0.1", 0, stopping=stopping)
        port: int = await nursery.start(run)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += await stream.receive_some()
            stopping.set()
            with trio.fail_after(GRACE_SECONDS / 2):
                assert await stream.receive_some() == b""
