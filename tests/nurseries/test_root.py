"""The whole tree in one process: it starts, answers, drains on a signal, and says what is wrong."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.config import Addresses, Config
from coproc.errors import FatalError
from nurseries.bridge import open_client
from nurseries.root import serve

if TYPE_CHECKING:
    from pathlib import Path


def configuration(folder: Path, **changes: object) -> Config:
    values: dict[str, object] = {
        "database_url": "memory://",
        "grpc_port": 0,
        "results_port": 0,
        "health_port": 0,
        "executor": "reference",
        "drain_seconds": 5.0,
        "allow_insecure_parameters": True,
        "addresses_file": folder / "addresses.json",
    }
    return Config(**(values | changes))


async def probe(address: str, path: str) -> tuple[int, bytes]:
    """GET over a plain socket."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = next(int(line.split()[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
        while len(body) < length:
            body += await stream.receive_some()
    return int(head.split()[1]), body


async def test_it_starts_answers_and_drains_on_sigterm(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    status: list[int] = []

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        status.append(await serve(config, task_status=task_status))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run)
            assert Addresses.read(tmp_path / "addresses.json") == addresses
            async with open_client(*addresses.grpc_target) as client:
                info = await client.server_info()
            assert list(info.executors) == ["reference"]
            for path in ("/livez", "/startupz", "/readyz"):
                code, body = await probe(addresses.health, path)
                assert (code, json.loads(body)["degraded"]) == (200, [])
            code, body = await probe(addresses.health, "/metrics")
            assert code == 200
            assert b'coproc_actor_up{actor="scheduler"} 1.0' in body
            assert b'coproc_actor_up{actor="sweeper"} 1.0' in body
            assert b"coproc_retention_deleted_total 0.0" in body
            os.kill(os.getpid(), signal.SIGTERM)
    assert status == [0]
    assert not (tmp_path / "addresses.json").exists()


async def test_a_port_that_is_taken_stops_the_start(tmp_path: Path) -> None:
    taken = trio.socket.socket()
    await taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with trio.fail_after(30), taken, pytest.raises(FatalError, match="cannot listen"):
        await serve(configuration(tmp_path, grpc_port=port))
    assert not (tmp_path / "addresses.json").exists()


async def test_a_gpu_that_is_asked_for_and_missing_is_named(tmp_path: Path) -> None:
    with trio.fail_after(30), pytest.raises(FatalError, match="no GPU is used"):
        await serve(configuration(tmp_path, executor="gpu"))


async def test_a_drain_has_one_budget_for_all_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(tmp_path, drain_seconds=60.0)
    monkeypatch.setattr("nurseries.root.CLOSING_SECONDS", -config.drain_seconds)
    status: list[int] = []

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        status.append(await serve(config, task_status=task_status))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            os.kill(os.getpid(), signal.SIGTERM)
    assert status == [128 + signal.SIGTERM]


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    config = configuration(tmp_path, drain_seconds=60.0)
    status: list[int] = []

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        status.append(await serve(config, task_status=task_status))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run)
            assert (await probe(addresses.health, "/readyz"))[0] == 200
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
    assert status == [128 + signal.SIGINT]
