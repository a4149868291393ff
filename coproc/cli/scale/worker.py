"""A worker whose executor sleeps: everything else is what ``coproc serve --roles worker`` runs.

Decides how long a job takes (the bootstraps of a transfer for each of its groups) and how results look (random bytes
of a given size). It claims, renews, stores and listens as ever. Orders come as lines on standard input, answers go out
as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import trio

from coproc.circuits.strategy import Strategy
from coproc.keyring import KeyCache
from coproc.metrics import STORE_OPERATIONS
from coproc.scheduling.model import Policy
from coproc.store.base import GroupOutcome, StoredCiphertext
from coproc.store.open import open_store
from coproc.telemetry import configure_logging
from nurseries.executor import JobCall
from nurseries.jobs import ComputedJob, Jobs
from nurseries.mailbox import Mailbox
from nurseries.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.base import Store, WorkGroup
    from coproc.tfhe.keys import EvaluationKey
    from nurseries.jobs import Ways

BOOTSTRAPS: Final = 112
"""Of a 64-bit transfer."""
LEVELS: Final = 49


class SleepingJobs(Jobs):
    """Computes nothing, and takes as long for it."""

    def __init__(self, store: Store, name: str, *, seconds_per_group: float, result_bytes: int) -> None:
        super().__init__(store, KeyCache(store, _never), Mailbox[JobCall]("jobs", 1), worker=name)
        self._seconds_per_group = seconds_per_group
        self._data = os.urandom(result_bytes)
        self._turn = trio.Lock()
        self.computed = 0.0
        """Seconds of work done, level by level."""

    async def compute(self, groups: Sequence[WorkGroup], ways: Ways, ciphertexts: int) -> ComputedJob:
        """Sleep, and make results up."""
        del ways, ciphertexts
        began = trio.current_time()
        level = self._seconds_per_group * len(groups) / LEVELS
        for _ in range(LEVELS):
            async with self._turn:  # the jobs of one executor alternate
                await trio.sleep(level)
            self.computed += level
        outcomes = [
            GroupOutcome(
                work.group_id, tuple(StoredCiphertext(handle, work.key_id, self._data) for handle in work.wanted)
            )
            for work in groups
        ]
        return ComputedJob(
            groups=len(groups),
            outcomes=tuple(outcomes),
            bootstraps=BOOTSTRAPS * len(groups),
            levels=LEVELS,
            prepare_seconds=0.0,
            compute_seconds=trio.current_time() - began,
            traceparent=None,
        )


async def _never(data: bytes) -> EvaluationKey:
    raise AssertionError(f"no key of {len(data)} bytes is needed here")


def operations() -> dict[str, tuple[float, float]]:
    """Read how often each operation of the store was done, and in how many seconds."""
    found: dict[str, tuple[float, float]] = {}
    for metric in STORE_OPERATIONS.collect():
        sums = {sample.labels["operation"]: sample.value for sample in metric.samples if sample.name.endswith("_sum")}
        for sample in metric.samples:
            if sample.name.endswith("_count"):
                found[sample.labels["operation"]] = (sample.value, sums[sample.labels["operation"]])
    return found


async def main(url: str, name: str, batch: int, seconds_per_group: float, result_bytes: int) -> None:
    """Work until standard input says ``stop`` or ends; each line ``mark`` is answered by what has been done."""
    policy = Policy(capacity=4 * batch, batch_groups=batch, guest_jobs=1)
    async with open_store(url, pool_size=4) as store:
        jobs = SleepingJobs(store, name, seconds_per_group=seconds_per_group, result_bytes=result_bytes)
        scheduler = Scheduler(store, jobs, policy=policy, strategy=Strategy.THROUGHPUT)
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run)
            async for line in trio.wrap_file(sys.stdin):
                if line.strip() == "stop":
                    break
                answer = {"time": time.monotonic(), "computed": jobs.computed, "operations": operations()}
                print(json.dumps(answer), flush=True)  # noqa: T201 - how the parent learns it
            nursery.cancel_scope.cancel(reason="told to stop")


if __name__ == "__main__":
    configure_logging("json", "error")
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
