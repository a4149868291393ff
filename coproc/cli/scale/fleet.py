"""Many workers on one Postgres, each a process of its own, and what the database needs for each thing they ask.

Decides how a rate is taken: by the seconds of work that executors have done, level by level, so that it does not depend
on where a batch begins or ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final, TypedDict

import trio

from coproc.cli.scale.queue import KEY
from coproc.scheduling.simulation import Costs
from coproc.store.base import GroupOutcome, StoredCiphertext, Topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.base import Store

SIZES: Final = (8, 64)
"""Groups of a claim, for a straight line through both."""
REPEATS: Final = 7
START_SECONDS: Final = 240.0


class Mark(TypedDict):
    """What a worker answers."""

    time: float
    computed: float
    operations: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker is told."""

    batch: int
    seconds_per_group: float
    result_bytes: int


@dataclass(frozen=True, slots=True)
class Rate:
    """What some workers did."""

    workers: int
    utilisation: float
    """Seconds of work over seconds, the mean over the workers: 1 is an executor that never waits."""
    operations: dict[str, tuple[float, float]]
    """By operation of the store: how many a second over all workers, and milliseconds of one, the mean."""


async def measure_fleet(url: str, workers: int, load: Load, seconds: float) -> Rate:
    """Start workers, wait until each has found work, and measure for a while."""
    processes = [_start(url, f"worker {number}", load) for number in range(workers)]
    try:
        with trio.fail_after(START_SECONDS):
            while min(item["computed"] for item in await _marks(processes)) <= 0.0:  # noqa: ASYNC110 - other processes
                await trio.sleep(0.5)
        before = await _marks(processes)
        await trio.sleep(seconds)
        after = await _marks(processes)
    finally:
        for process in processes:
            process.terminate()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_reap, processes)
    shares = [
        (end["computed"] - begin["computed"]) / (end["time"] - begin["time"])
        for begin, end in zip(before, after, strict=True)
    ]
    return Rate(workers, sum(shares) / workers, _operations(before, after, seconds))


def _start(url: str, name: str, load: Load) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "coproc.cli.scale.worker", url, name, str(load.batch)]
    command += [str(load.seconds_per_group), str(load.result_bytes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _reap(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait for processes to end, and close what led to them."""
    for process in processes:
        with process:
            pass


async def _marks(processes: Sequence[subprocess.Popen[str]]) -> list[Mark]:
    """Ask every worker what it has done so far."""

    def ask() -> list[Mark]:
        for process in processes:
            if process.stdin is not None:
                process.stdin.write("mark\n")
                process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in processes if process.stdout is not None]

    return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)


def _operations(before: Sequence[Mark], after: Sequence[Mark], seconds: float) -> dict[str, tuple[float, float]]:
    totals: dict[str, list[float]] = {}
    for marks, sign in ((before, -1.0), (after, 1.0)):
        for mark in marks:
            for name, (times, spent) in mark["operations"].items():
                total = totals.setdefault(name, [0.0, 0.0])
                total[0] += sign * times
                total[1] += sign * spent
    return {name: (times / seconds, 1e3 * spent / times) for name, (times, spent) in totals.items() if times > 0}


async def measure_costs(store: Store, result_bytes: int, processors: int) -> Costs:
    """Measure what the database needs when one worker alone asks, as straight lines over the number of groups."""
    spent: dict[tuple[str, int], list[float]] = {}
    data = bytes(result_bytes)
    for _ in range(REPEATS):
        for size in SIZES:
            began = time.perf_counter()
            groups = await store.claim("bench", size, 3600.0)
            claimed = time.perf_counter()
            await store.renew("bench", [group.group_id for group in groups], 3600.0)
            renewed = time.perf_counter()
            outcomes = [
                GroupOutcome(group.group_id, tuple(StoredCiphertext(handle, KEY, data) for handle in group.wanted))
                for group in groups
            ]
            await store.finish_all("bench", outcomes)
            times = (claimed - began, renewed - claimed, time.perf_counter() - renewed)
            for name, seconds in zip(("claim", "renew", "finish"), times, strict=True):
                spent.setdefault((name, size), []).append(seconds)
    lines = {name: line({size: median(spent[name, size]) for size in SIZES}) for name in ("claim", "renew", "finish")}
    return Costs(lines["claim"], lines["finish"], lines["renew"], processors)


def line(points: dict[int, float]) -> tuple[float, float]:
    """Draw a line through two points, rising and not below zero: ``(at zero, for each)``."""
    (small, least), (large, most) = sorted(points.items())
    each = max(0.0, (most - least) / (large - small))
    return max(0.0, least - each * small), each


async def measure_notify(store: Store, times: int = 20) -> float:
    """Measure the median seconds from a commit that makes results to the moment when a subscriber hears of it."""
    heard: list[float] = []
    async with store.wakeups() as wakeups:
        for _ in range(times):
            group, *_ = await store.claim("bench", 1, 3600.0)
            results = tuple(StoredCiphertext(handle, KEY, b"") for handle in group.wanted)
            await store.finish("bench", GroupOutcome(group.group_id, results))
            began = time.perf_counter()
            with trio.fail_after(60):
                while await wakeups.receive() is not Topic.RESULTS:
                    pass
            heard.append(time.perf_counter() - began)
    return median(heard)
