"""What a service says of itself while it works, and while what it depends on is away."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.client import Transaction
from coproc.metrics import FAMILIES, Figure
from coproc.program.types import FheType, new_handle
from coproc.store.base import State
from coproc.store.memory_overview import ViewedMemoryStore
from coproc.store.overview import QueueEntry
from nurseries.bridge import open_client
from nurseries.chain import ChainStatistics
from nurseries.reports import MAX_TENANTS, OTHERS, QUEUE_REST_SECONDS, QUEUE_SECONDS, QueueReader, queue_figures
from tests.nurseries.running import Relay, readiness, running, scrape, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coproc.tfhe.client import ClientKey
    from nurseries.bridge import TrioClient


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: those of sockets are bounded."""
    made = Path(tempfile.mkdtemp(prefix="coproc-"))
    yield made
    shutil.rmtree(made)


async def compute(client: TrioClient, key_id: bytes, client_key: ClientKey, *, early: bool = False) -> None:
    """Add two numbers; asked ``early``, the input is not there yet, and the work is not taken as it is stored."""
    a, draft = new_handle(FheType.UINT8), Transaction(key_id)
    total = draft.add(a, draft.add(a, 1), allow=True)
    if early:
        await client.submit(draft)
    await client.upload(key_id, {a: client_key.encrypt(4, 8)})
    if not early:
        await client.submit(draft)
    await client.wait([total])


async def test_work_shows_in_the_figures(database_url: str, toy_client_key: ClientKey, toy_server_key: bytes) -> None:
    with trio.fail_after(60):
        async with running(database_url, executor="cpu", threads=1) as addresses:
            before = await scrape(addresses)
            async with open_client(*addresses.grpc_target) as client:
                key_id = await client.register_key(toy_server_key)
                await compute(client, key_id, toy_client_key)
                await compute(client, key_id, toy_client_key, early=True)
                waits = Transaction(key_id)
                waits.add(new_handle(FheType.UINT8), 1, allow=True)
                await client.submit(waits)

                async def is_counted() -> bool:
                    now = await scrape(addresses)
                    done = now("groups_done_total") - before("groups_done_total")
                    beats = now("event_loop_lag_seconds_count") - before("event_loop_lag_seconds_count")
                    return done > 1 and beats > 0 and bool(now.labels("queue_groups"))

                await until(is_counted)
                after = await scrape(addresses)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown("groups_done_total") == 2
    bootstraps = grown("executor_bootstraps_total", executor="cpu")
    assert bootstraps == grown("level_bootstraps_sum", executor="cpu") == grown("job_bootstraps_sum") > 0
    assert grown("level_bootstraps_count", executor="cpu") == grown("executor_levels_total", executor="cpu")
    assert grown("executor_busy_seconds_total", executor="cpu") > 0
    assert grown("executor_lane_slots_total", executor="cpu") == bootstraps, "one lane is always full"
    assert grown("executor_jobs_total", executor="cpu") == 2
    assert (grown("job_groups_count"), grown("job_groups_sum"), grown("job_duration_seconds_count")) == (2, 2, 2)
    assert grown("queue_wait_seconds_count") == grown("result_latency_seconds_count") == 2
    assert 0 < grown("queue_wait_seconds_sum") < grown("result_latency_seconds_sum")
    call = {"method": "SubmitComputations", "status": "OK"}
    assert grown("grpc_call_duration_seconds_count", **call) == 3
    for operation in ("submit", "claim", "finish_all", "put_ciphertexts"):
        assert grown("store_operation_duration_seconds_count", operation=operation, outcome="done") >= 1, operation
    assert after("grpc_connections") == before("grpc_connections") + 1
    assert after("cache_misses_total", cache="values") == 2
    assert after("cache_hits_total", cache="keys") + after("cache_misses_total", cache="keys") > 0
    assert after("queue_groups", tenant="", state="waiting") == 1
    assert after("queue_oldest_age_seconds", tenant="", state="waiting") > 0
    assert after("breaker_state", dependency="database", state="closed") == 1
    assert 0 < after("database_connections", state="idle") <= after("database_connections_limit") == 8
    assert after.types["coproc_groups_done"] == "counter"
    shown = {name.removeprefix("coproc_") for name, _ in after.samples}
    of_chains = {f"chain_{name}_total" for name in asdict(ChainStatistics())} | {"chain_block", "chain_head_block"}
    elsewhere = {"spans_exported_total", "spans_dropped_total", "executor_taken_over_total", "queue_bootstraps"}
    assert FAMILIES.keys() - shown - of_chains == elsewhere, "every figure has somebody who fills it"
    assert after.types["process_cpu_seconds"] == "counter"


async def test_a_database_that_is_away_degrades_and_kills_nothing(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes, folder: Path
) -> None:
    relay = Relay(database_url, folder)
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.up)
            async with running(relay.url) as addresses, open_client(*addresses.grpc_target) as client:
                key_id = await client.register_key(toy_server_key)
                await compute(client, key_id, toy_client_key)
                relay.down()

                async def is_degraded() -> bool:
                    return (await readiness(addresses))[1]["degraded"] == ["database"]

                await until(is_degraded)
                status, body = await readiness(addresses)
                assert status == 200, "degraded is not dead"
                assert "database" in str(body["breakers"])
                shown = await scrape(addresses)
                assert shown("actor_up", actor="database") == 0
                assert shown("breaker_state", dependency="database", state="closed") == 0
                assert shown("breaker_openings_total", dependency="database") >= 1
                assert not shown.labels("queue_groups"), "nothing is said that is not known"
                assert shown("ready") == 1

                await nursery.start(relay.up)

                async def is_well() -> bool:
                    return (await readiness(addresses))[1]["degraded"] == []

                await until(is_well)
                await compute(client, key_id, toy_client_key)
            relay.down()


@pytest.mark.usefixtures("autojump_clock")
async def test_the_queue_is_read_once_for_all_who_ask() -> None:
    class Slow(ViewedMemoryStore):
        reads = 0

        async def queue(self) -> Sequence[QueueEntry]:
            self.reads += 1
            await trio.sleep(seconds)
            return [QueueEntry(None, State.READY, self.reads, None, None)]

    store, seconds = Slow(), 0.5
    reader = QueueReader(lambda: store)
    found: list[Sequence[Figure]] = []

    async def ask() -> None:
        found.append(await reader.read())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert (store.reads, [figures[0].value for figures in found]) == (1, [1] * 20)
    await trio.sleep(QUEUE_REST_SECONDS)
    assert (await reader.read())[0].value == 2
    await trio.sleep(QUEUE_REST_SECONDS)
    seconds = 60.0
    began = trio.current_time()
    assert await reader.read() == (), "nothing is said that is not known"
    assert trio.current_time() - began == pytest.approx(QUEUE_SECONDS)


def test_the_queue_is_summed_up_by_tenant_and_state() -> None:
    entries = [
        QueueEntry(None, State.READY, 3, 40, 2.5),
        QueueEntry("alice", State.WAITING, 1, None, 9.0),
        QueueEntry("alice", State.COMPUTING, 2, 7, None),
    ]
    assert queue_figures(entries) == [
        Figure("queue_groups", 3, {"tenant": "", "state": "ready"}),
        Figure("queue_groups", 1, {"tenant": "alice", "state": "waiting"}),
        Figure("queue_groups", 2, {"tenant": "alice", "state": "computing"}),
        Figure("queue_bootstraps", 40, {"tenant": "", "state": "ready"}),
        Figure("queue_bootstraps", 7, {"tenant": "alice", "state": "computing"}),
        Figure("queue_oldest_age_seconds", 2.5, {"tenant": "", "state": "ready"}),
        Figure("queue_oldest_age_seconds", 9.0, {"tenant": "alice", "state": "waiting"}),
    ]


def test_any_number_of_tenants_makes_a_bounded_number_of_series() -> None:
    entries = [QueueEntry(f"t{number}", State.READY, number + 1, 10, float(number)) for number in range(300)]
    figures = queue_figures(entries)
    assert len(figures) == 3 * (MAX_TENANTS + 1)
    (rest,) = [figure for figure in figures if figure.labels["tenant"] == OTHERS and figure.name == "queue_groups"]
    assert rest.value == sum(range(1, 201))
    assert sum(figure.value for figure in figures if figure.name == "queue_bootstraps") == 3000
    assert {figure.name for figure in figures} <= FAMILIES.keys()
