"""Errors and cancellation cross between the two worlds as what they are."""

from __future__ import annotations

import asyncio

import pytest
import trio

from coproc.client import State
from coproc.errors import NotFound
from nurseries.bridge import open_asyncio, open_client, run_in_asyncio, run_in_trio
from tests.api.serving import handle, serving


async def test_calls_cross_in_both_directions() -> None:
    async def in_trio(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value + 1

    async def in_asyncio(value: int) -> int:
        await asyncio.sleep(0)
        return await run_in_trio(in_trio)(2 * value)

    async with open_asyncio():
        assert await run_in_asyncio(in_asyncio)(10) == 21


async def test_an_error_of_the_block_comes_out_as_itself() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise NotFound("this one")

    async def through() -> None:
        await run_in_trio(fail)()

    with pytest.raises(NotFound, match="this one"):
        async with open_asyncio():
            await run_in_asyncio(through)()


async def test_an_error_nobody_waits_for_is_logged_and_kills_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def careless() -> None:
        def explode() -> None:
            raise ValueError("in a callback")

        asyncio.get_running_loop().call_soon(explode)
        await asyncio.sleep(0.01)

    async with open_asyncio():
        await run_in_asyncio(careless)()
        await run_in_asyncio(asyncio.sleep)(0)
    assert "in a callback" in capsys.readouterr().out


async def test_cancellation_crosses_to_asyncio_and_back() -> None:
    seen: list[str] = []

    async def in_trio() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append("trio")
            raise

    async def in_asyncio() -> None:
        try:
            await run_in_trio(in_trio)()
        except asyncio.CancelledError:
            seen.append("asyncio")
            raise

    async with open_asyncio():
        with trio.move_on_after(0.05) as scope:
            await run_in_asyncio(in_asyncio)()
    assert scope.cancelled_caught
    assert seen == ["trio", "asyncio"]


async def test_two_loops_may_live_side_by_side() -> None:
    async with (
        serving() as first,
        serving() as second,
        open_client("127.0.0.1", first.port) as one,
        open_client("127.0.0.1", second.port) as other,
    ):
        for client in (one, other, one):
            (state,) = await client.status([handle()])
            assert state.state is State.UNKNOWN


async def test_a_group_raised_by_a_handler_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def grouped(_service: object, _request: object) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            raise NotFound("from inside a nursery")

    async with serving() as server:
        monkeypatch.setattr(server.service.__class__, "get_status", grouped)
        async with serving() as patched, open_client("127.0.0.1", patched.port) as client:
            with pytest.raises(NotFound, match="from inside a nursery"):
                await client.status([handle()])
