"""The view that autoscalers read: it estimates as the scheduler does, and counts what is open."""

from __future__ import annotations

import random

from coproc.program.computation import Computation, Operation
from coproc.program.types import FheType, new_handle
from coproc.scheduling.estimate import estimate
from coproc.store.base import WorkGroup
from coproc.store.connection import TrioConnection
from coproc.store.open import open_store
from coproc.store.postgres import PostgresStore
from tests.store.builders import add, batch, ciphertext, done, with_inputs, with_key


async def waiting(url: str) -> dict[int, int]:
    async with await TrioConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute("select group_id, bootstraps from queue_cost")
        return {int(group): int(cost) for group, cost in await cursor.fetchall()}


async def test_it_estimates_every_operation_on_every_type_as_the_scheduler_does(database_url: str) -> None:
    rng = random.Random(5)
    async with open_store(database_url) as store:
        await with_key(store)
        computations: list[Computation] = []
        inputs = {fhe_type: [new_handle(fhe_type) for _ in range(4)] for fhe_type in FheType}
        await store.put_ciphertexts([ciphertext(name) for names in inputs.values() for name in names])
        for number, operation in enumerate(Operation):
            for fhe_type in rng.sample(list(FheType), 6):
                operands = tuple(rng.sample(inputs[fhe_type], 1 + number % 4))
                computations.append(Computation(new_handle(rng.choice(list(FheType))), operation, operands, True))
        for number, computation in enumerate(computations):  # one group each
            await store.submit(batch(computation, transaction=number.to_bytes(32, "big")))
        cost = await waiting(database_url)
        expected = {
            computation.output: estimate(WorkGroup(1, b"k", b"t", (computation,), frozenset(), 0)).cost
            for computation in computations
        }
        async with await TrioConnection.connect(database_url, autocommit=True) as connection:
            cursor = await connection.execute("select output, group_id from computations", binary=True)
            groups = dict(await cursor.fetchall())
        assert {groups[output]: size for output, size in expected.items()} == cost
        await store.claim("worker", len(computations), 60)
        assert await waiting(database_url) == cost, "what is being computed still keeps workers busy"


async def test_it_counts_what_is_open(database_url: str) -> None:
    async with open_store(database_url) as store:
        assert isinstance(store, PostgresStore)
        first, second = await with_inputs(store, 2)
        assert await waiting(database_url) == {}
        missing = add(first, new_handle(FheType.UINT8))
        ready = add(first, second)
        await store.submit(batch(missing))
        await store.submit(batch(ready, transaction=b"u" * 32))
        assert list((await waiting(database_url)).values()) == [12], "what waits for inputs keeps nobody busy"
        (group,) = await store.claim("worker", 10, 60)
        await store.finish("worker", done(group))
        assert await waiting(database_url) == {}
