"""Flags change what running workers do; a bad file changes nothing and is seen."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.client import Transaction
from coproc.config import Config
from coproc.errors import FatalError, RecoverableError
from coproc.executors.base import ExecutorUnavailable
from coproc.flags import Flags, read_bytes
from coproc.layers import InvalidConfiguration
from coproc.program.types import FheType, new_handle
from nurseries.bridge import open_client
from nurseries.flags import FlagsActor
from nurseries.root import serve
from tests.nurseries.running import readiness, running, scrape, until

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.config import Addresses
    from coproc.tfhe.client import ClientKey
    from nurseries.bridge import TrioClient

BASE = Flags.of(Config(database_url="memory://"))
START = datetime(2027, 1, 1, tzinfo=UTC)


def write(path: Path, text: str) -> None:
    """Replace a file as orchestrators do: never half of it."""
    partial = path.with_suffix(".new")
    partial.write_text(text, "utf-8")
    partial.replace(path)


class Follower:
    """Remembers the flags that it was told of, unless it cannot follow."""

    def __init__(self) -> None:
        self.told: list[Flags] = []
        self.error: Exception | None = None

    async def __call__(self, flags: Flags) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.told.append(flags)


def clock() -> datetime:
    """Time of day on Trio's clock."""
    return START + timedelta(seconds=trio.current_time())


async def read(path: Path) -> bytes:
    """Read without a thread, which the clock of these tests would not wait for."""
    await trio.lowlevel.checkpoint()
    return read_bytes(path)


async def start(nursery: trio.Nursery, path: Path, follower: Follower) -> FlagsActor:
    actor = FlagsActor(path, BASE, follower, now=clock, read=read)
    await nursery.start(actor.run)
    return actor


def reloads(actor: FlagsActor) -> list[float]:
    return [figure.value for figure in actor.figures() if figure.name == "flag_reloads_total"]


@pytest.mark.usefixtures("autojump_clock")
async def test_a_changed_file_is_told_once_and_a_bad_one_never(tmp_path: Path) -> None:
    path, follower = tmp_path / "flags.json", Follower()
    write(path, '{"maximum_batch": 7}')
    async with trio.open_nursery() as nursery:
        actor = await start(nursery, path, follower)
        assert (actor.flags.maximum_batch, follower.told) == (7, []), "who starts asks by itself"
        write(path, '{"maximum_batch": 8}')
        await trio.sleep(5)
        assert [flags.maximum_batch for flags in follower.told] == [8]
        for bad in ('{"maximum_batch": 9, "x": 1}', "{", '{"maximum_batch": -1}'):
            write(path, bad)
            await trio.sleep(5)
            assert actor.flags.maximum_batch == 8
            assert not actor.health.healthy
        path.unlink()
        await trio.sleep(5)
        assert "No such file" in str(actor.health.error)
        assert len(follower.told) == 1
        write(path, '{"maximum_batch": 8}')
        await trio.sleep(5)
        assert actor.health.healthy
        assert reloads(actor) == [2, 4]
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("autojump_clock")
async def test_the_plan_changes_at_its_moment_even_behind_a_broken_file(tmp_path: Path) -> None:
    path, follower = tmp_path / "flags.json", Follower()
    at = START + timedelta(seconds=60)
    write(path, json.dumps({"next_plan": {"effective_at": at.isoformat(), "shift_semantics": "zero"}}))
    async with trio.open_nursery() as nursery:
        actor = await start(nursery, path, follower)
        assert actor.notices == ("the plan changes at 2027-01-01T00:01:00+00:00",)
        write(path, "{")
        await trio.sleep(59)
        assert follower.told == []
        await trio.sleep(3)
        assert [flags.plan.shift_semantics for flags in follower.told] == ["zero"]
        assert (actor.notices, actor.health.healthy) == ((), False)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("autojump_clock")
async def test_flags_that_this_worker_cannot_follow_are_refused_as_a_whole(tmp_path: Path) -> None:
    path, follower = tmp_path / "flags.json", Follower()
    write(path, "{}")
    async with trio.open_nursery() as nursery:
        actor = await start(nursery, path, follower)
        follower.error = ExecutorUnavailable("there is no device")
        write(path, '{"executor": "gpu", "maximum_batch": 3}')
        await trio.sleep(5)
        assert (actor.flags, actor.error) == (BASE, "there is no device")
        follower.error = RecoverableError("not just now")
        write(path, '{"executor": "gpu", "maximum_batch": 4}')
        await trio.sleep(5)
        assert actor.error == "not just now"
        follower.error = None
        await trio.sleep(5)
        assert (actor.flags.maximum_batch, actor.error) == (4, None), "tried again by itself"
        nursery.cancel_scope.cancel()


async def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    write(path, '{"maximum_batch": "many"}')
    with trio.fail_after(30), pytest.raises(FatalError, match="maximum_batch"):
        await serve(Config(database_url="memory://", grpc_port=0, results_port=0, health_port=0, flags_file=path))
    with trio.fail_after(30), pytest.raises(InvalidConfiguration, match="flags_file"):
        await FlagsActor(tmp_path / "none", BASE, Follower()).run()


async def cost(client: TrioClient, addresses: Addresses, key_id: bytes, client_key: ClientKey) -> float:
    """Sum five numbers; returns the bootstraps that it took."""
    before = (await scrape(addresses))("job_bootstraps_sum")
    numbers, draft = [new_handle(FheType.UINT8) for _ in range(5)], Transaction(key_id)
    await client.upload(key_id, {handle: client_key.encrypt(number, 8) for number, handle in enumerate(numbers)})
    total = numbers[0]
    for handle in numbers[1:]:
        total = draft.add(total, handle)
    draft.allow(total)
    await client.submit(draft)
    await client.wait([total])
    (item,) = await client.fetch([total])
    assert item.ciphertext is not None
    assert client_key.decrypt(item.ciphertext) == 0 + 1 + 2 + 3 + 4
    return (await scrape(addresses))("job_bootstraps_sum") - before


async def test_a_flag_changes_the_next_job_and_a_broken_file_changes_nothing(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "flags.json"
    write(path, "{}")
    rule = {"flag": "rewrites.column_sums"}
    with trio.fail_after(120):
        async with running(database_url, flags_file=path) as addresses, open_client(*addresses.grpc_target) as client:
            key_id = await client.register_key(toy_server_key)
            plain = await cost(client, addresses, key_id, toy_client_key)

            write(path, '{"rewrites": {"column_sums": false}, "batch_window_seconds": 0.001}')

            async def is_off() -> bool:
                return (await scrape(addresses))("flag_info", **rule, value="false") == 1

            await until(is_off)
            shown = await scrape(addresses)
            assert shown("flag_info", flag="batch_window_seconds", value="0.001") == 1
            assert shown("flag_info", **rule, value="true") == 0
            assert shown("flag_reloads_total", outcome="applied") == 1
            assert (await readiness(addresses))[1]["degraded"] == []
            changed = await cost(client, addresses, key_id, toy_client_key)
            assert changed > plain, "sums are added one by one"

            write(path, '{"rewrites": {"column_sums": true}, "batch_window_seconds": "long"}')

            async def is_refused() -> bool:
                return (await scrape(addresses))("flags_refused") == 1

            await until(is_refused)
            status, body = await readiness(addresses)
            assert (status, body["degraded"]) == (200, ["flags"])
            assert "batch_window_seconds" in str(body["actors"])
            now = await scrape(addresses)
            assert sorted(map(str, now.labels("flag_info"))) == sorted(map(str, shown.labels("flag_info")))
            assert now("flag_reloads_total", outcome="refused") == 1
            assert await cost(client, addresses, key_id, toy_client_key) == changed

            write(path, "{}")

            async def is_well() -> bool:
                return (await scrape(addresses))("flags_refused") == 0

            await until(is_well)
            assert await cost(client, addresses, key_id, toy_client_key) == plain


@pytest.mark.skipif(shutil.which("g++") is None, reason="the emulated executor needs g++ (apt-get install g++)")
async def test_another_executor_takes_over_while_the_service_runs(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "flags.json"
    write(path, "{}")
    settings = {"executor": "cpu", "threads": 1, "flags_file": path}
    with trio.fail_after(240):
        async with running(database_url, **settings) as addresses, open_client(*addresses.grpc_target) as client:
            key_id = await client.register_key(toy_server_key)
            bootstraps = await cost(client, addresses, key_id, toy_client_key)
            if not os.path.exists("/dev/nvidia0"):  # noqa: PTH110, ASYNC240 - a quick look
                write(path, '{"executor": "gpu", "maximum_batch": 2}')

                async def is_refused() -> bool:
                    return "no GPU is used" in str((await readiness(addresses))[1]["actors"])

                await until(is_refused)
                assert (await scrape(addresses))("flag_info", flag="maximum_batch", value="64") == 1
            for name in ("emulated", "cpu"):
                write(path, json.dumps({"executor": name}))

                async def is_there(value: str = name) -> bool:
                    return (await scrape(addresses))("flag_info", flag="executor", value=value) == 1

                await until(is_there)
                assert await cost(client, addresses, key_id, toy_client_key) == bootstraps
            shown = await scrape(addresses)
    assert shown("executor_bootstraps_total", executor="cpu") == 2 * bootstraps, "what is over stays counted"
    assert shown("executor_bootstraps_total", executor="emulated") == bootstraps
    assert shown("executor_taken_over_total", executor="emulated") == 0
