"""Blocked steps are seen, with the place where they were blocked. Real time: the point is what the real clock says."""

from __future__ import annotations

import time

import trio

from nurseries.watchdog import BlockedStep, Watchdog


def block_here(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_blocked_step_is_reported_with_its_stack() -> None:
    seen: list[BlockedStep] = []
    watchdog = Watchdog(threshold=0.05, heartbeat=0.02, on_blocked=seen.append)

    async def rude() -> None:
        await trio.sleep(0.01)
        block_here(0.3)

    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        async with trio.open_nursery() as inner:
            inner.start_soon(rude, name="the rude one")
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    blocked = next(step for step in seen if step.task == "the rude one")
    assert 0.3 <= blocked.seconds < 5
    assert "block_here" in blocked.stack
    assert watchdog.health.worst_lag > 0.2
    assert watchdog.health.blocked_steps == len(seen)


async def test_waiting_is_not_blocking() -> None:
    seen: list[BlockedStep] = []
    watchdog = Watchdog(threshold=0.3, heartbeat=0.05, on_blocked=seen.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        await trio.sleep(0.4)
        nursery.cancel_scope.cancel()
    assert "test_waiting_is_not_blocking" not in {step.task for step in seen}
    assert watchdog.health.heartbeat_age < 5
