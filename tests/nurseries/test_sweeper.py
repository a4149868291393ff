"""The sweeper deletes in steps, rests, and outlives a database that is away."""

from __future__ import annotations

import pytest
import trio

from coproc.errors import RecoverableError
from coproc.store.memory_overview import ViewedMemoryStore
from coproc.store.retention import Retention, Sweep
from nurseries.sweeper import EXAMINED_AT_ONCE, REST_SECONDS, Sweeper
from tests.store.builders import with_inputs

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Flaky(ViewedMemoryStore):
    """A store that is away at first."""

    away = 2

    async def sweep(self, retention: Retention, limit: int) -> Sweep:
        if self.away:
            self.away -= 1
            raise RecoverableError("away")
        return await super().sweep(retention, limit)


async def test_old_values_go_and_young_ones_stay_until_they_are_old() -> None:
    store = Flaky()
    first = await with_inputs(store, 2 * EXAMINED_AT_ONCE + 1)
    sweeper = Sweeper(store, Retention(uploads=1000, every=100))
    with trio.move_on_after(2000):
        async with trio.open_nursery() as nursery:
            await nursery.start(sweeper.run)
            await trio.sleep(900)
            assert len(await store.get_ciphertexts(first)) == len(first)
            assert sweeper.statistics.failures == 2
            await trio.sleep(200 + 3 * REST_SECONDS)
            assert not await store.get_ciphertexts(first)
            assert (sweeper.statistics.values, sweeper.statistics.size) == (len(first), 5 * len(first))
            nursery.cancel_scope.cancel()
