"""``coproc bench service``: the service as its clients and its operator see it.

Decides the load: first many transfers that queue (submissions, results and the share of CPU time inside bootstraps),
then all their results again (fetched, and pushed to a late subscriber), then single small operations, one at a time, to
see what the service adds to the bootstraps. The service is a process of its own, started as operators start it, and the
load comes over its public interfaces, from the same machine.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.request import urlopen

import click
import trio

from coproc.cli.demo import make_transfer
from coproc.cli.measuring import Figure, Record, figure, new_record, recorded
from coproc.cli.service import private_service
from coproc.client import Transaction
from coproc.errors import FatalError
from coproc.program.types import FheType, Handle, new_handle
from coproc.results.client import subscribe
from coproc.store.base import State
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from coproc.cli.measuring import Better
    from coproc.cli.service import Service
    from coproc.results.client import Subscription
    from nurseries.bridge import TrioClient

T = TypeVar("T")

PERCENTILES: Final = (50, 95, 99)
PATIENCE_SECONDS: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked for."""

    rounds: int
    transfers: int
    """In a round."""
    clients: int
    """Calls under way at a time."""
    lone: int
    """Single operations in a round."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the service's process and its executor have used so far."""

    cpu_seconds: float
    kernel_seconds: float
    """CPU time inside keyswitches and bootstraps."""
    busy_seconds: float
    """Time during which a level ran."""
    bootstraps: float


@dataclass(slots=True)
class Findings:
    """One value for every round, by name."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict[str, list[float]](list))
    units: dict[str, tuple[str, Better]] = field(default_factory=dict[str, "tuple[str, Better]"])

    def add(self, name: str, unit: str, value: float, better: Better = "lower") -> None:
        """Add the value of a round."""
        self.values[name].append(value)
        self.units[name] = (unit, better)

    def percentiles(self, name: str, seconds: Sequence[float]) -> None:
        """Add percentiles of durations, in milliseconds."""
        ordered = sorted(seconds)
        for percent in PERCENTILES:
            place = max(0, math.ceil(len(ordered) * percent / 100) - 1)
            self.add(f"{name}, p{percent}", "ms", 1e3 * ordered[place])

    def figures(self) -> list[Figure]:
        """Return all as figures."""
        return [figure(name, self.units[name][0], values, self.units[name][1]) for name, values in self.values.items()]


@click.command("service")
@click.option("--rounds", default=3, show_default=True, help="The median is reported.")
@click.option("--transfers", default=200, show_default=True, help="64-bit transfers that queue, in a round.")
@click.option("--clients", default=8, show_default=True, help="Calls under way at a time.")
@click.option("--lone", default=30, show_default=True, help="Single operations in a round, one at a time.")
@click.option("--executor", default="auto", show_default=True)
@click.option("--threads", default=0, show_default=True, help="0 takes all cores.")
@click.option("--toy", is_flag=True, help="Insecure parameters.")
@recorded
def bench_service(
    rounds: int, transfers: int, clients: int, lone: int, executor: str, threads: int, *, toy: bool
) -> Record:
    """Measure a whole service: submissions, results, fetches, latency, and where its CPU time goes."""
    load = Load(rounds, transfers, clients, lone)
    findings = Findings()
    arguments = ["--executor", executor, "--threads", str(threads), "--log-format", "json"]
    with private_service(arguments + ["--allow-insecure-parameters"] * toy) as service:
        client_key = ClientKey.generate(TOY_2_2 if toy else V1_5_2_2)
        name = trio.run(_run, service, client_key, load, findings)
        findings.add("largest memory", "MiB", _status(service, "VmHWM") / 1024)
    settings = {
        "parameters": "toy" if toy else "V1_5 2_2",
        "executor": name,
        "threads": threads or len(os.sched_getaffinity(0)),
        "transfers": transfers,
        "clients": clients,
    }
    return new_record("service", settings, findings.figures())


async def _run(service: Service, client_key: ClientKey, load: Load, findings: Findings) -> str:
    from nurseries.bridge import open_client  # noqa: PLC0415 - the only way to grpclib from Trio

    with trio.fail_after(PATIENCE_SECONDS):
        async with open_client("127.0.0.1", service.grpc_port) as client:
            key_id = await client.register_key(client_key.compressed_server_key())
            words = [new_handle(FheType.UINT64) for _ in range(3)]
            small = [new_handle(FheType.UINT8) for _ in range(2)]
            uploads = {handle: client_key.encrypt(1000 + place, 64) for place, handle in enumerate(words)}
            uploads |= {handle: client_key.encrypt(100 + place, 8) for place, handle in enumerate(small)}
            await client.upload(key_id, uploads)
            async with subscribe(service.addresses.results) as events:
                # The key is prepared and code is warm before anything counts.
                await _queue(service, client, events, [make_transfer(key_id, *words)[0]], load, Findings())
                await _alone(service, client, events, [_small(key_id, small)], Findings())
                for _ in range(load.rounds):
                    queued = [make_transfer(key_id, *words)[0] for _ in range(load.transfers)]
                    await _queue(service, client, events, queued, load, findings)
                    await _fetch(client, [handle for item in queued for handle in item.allowed], load, findings)
                    await _push(service, events.position, findings)
                    singles = [_small(key_id, small) for _ in range(load.lone)]
                    await _alone(service, client, events, singles, findings)
            return ", ".join((await client.server_info()).executors)


def _small(key_id: bytes, operands: Sequence[Handle]) -> Transaction:
    """One operation of four bootstraps in one round."""
    transaction = Transaction(key_id)
    transaction.bit_and(*operands, allow=True)
    return transaction


async def _queue(
    service: Service,
    client: TrioClient,
    events: Subscription,
    transactions: Sequence[Transaction],
    load: Load,
    findings: Findings,
) -> None:
    """Submit everything as fast as the clients can, and wait for all results."""
    calls: list[float] = []
    submitted: dict[Handle, float] = {}
    waited: dict[Handle, float] = {}
    until = dict[str, float]()
    before = await _usage(service)
    began = trio.current_time()

    async def submit(transaction: Transaction) -> None:
        started = trio.current_time()
        submitted.update(dict.fromkeys(transaction.allowed, started))
        await client.submit(transaction)
        calls.append(trio.current_time() - started)
        until["submitted"] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_share, submit, transactions, load.clients)
        expected = sum(len(transaction.allowed) for transaction in transactions)
        while len(waited) < expected:
            event = await events.__anext__()
            if event.state is not State.COMPLETED:
                raise FatalError(f"a computation failed: {event}")
            waited[event.handle] = trio.current_time() - submitted[event.handle]
    seconds = trio.current_time() - began
    after = await _usage(service)
    findings.add("submissions", "per second", len(transactions) / (until["submitted"] - began), "higher")
    findings.percentiles("submission under load", calls)
    findings.add("transfers", "per second", len(transactions) / seconds, "higher")
    findings.add("bootstraps", "per second", (after.bootstraps - before.bootstraps) / seconds, "higher")
    findings.percentiles("submission to pushed result under load", list(waited.values()))
    cpu = after.cpu_seconds - before.cpu_seconds
    findings.add(
        "CPU time inside bootstraps", "%", 100 * (after.kernel_seconds - before.kernel_seconds) / cpu, "higher"
    )


async def _fetch(client: TrioClient, handles: Sequence[Handle], load: Load, findings: Findings) -> None:
    """Fetch every result in a call of its own."""
    sizes: list[int] = []

    async def fetch(handle: Handle) -> None:
        (item,) = await client.fetch([handle])
        if item.ciphertext is None:
            raise FatalError(f"a result was pushed but cannot be fetched: {item.state}")
        sizes.append(len(item.ciphertext))

    began = trio.current_time()
    await _share(fetch, handles, load.clients)
    seconds = trio.current_time() - began
    findings.add("fetches", "per second", len(sizes) / seconds, "higher")
    findings.add("fetched", "MiB per second", sum(sizes) / seconds / (1 << 20), "higher")


async def _push(service: Service, latest: int, findings: Findings) -> None:
    """Subscribe to everything since the beginning, as somebody who was away."""
    began = trio.current_time()
    async with subscribe(service.addresses.results) as events:
        count = 0
        while events.position < latest:
            await events.__anext__()
            count += 1
    findings.add("pushes to a late subscriber", "per second", count / (trio.current_time() - began), "higher")


async def _alone(
    service: Service,
    client: TrioClient,
    events: Subscription,
    transactions: Sequence[Transaction],
    findings: Findings,
) -> None:
    """Do one small operation at a time on a service with nothing else to do."""
    whole: list[float] = []
    added: list[float] = []
    for transaction in transactions:
        before = await _usage(service)
        began = trio.current_time()
        await client.submit(transaction)
        await events.__anext__()
        whole.append(trio.current_time() - began)
        added.append(whole[-1] - ((await _usage(service)).busy_seconds - before.busy_seconds))
    findings.percentiles("lone bit_and 8, submission to pushed result", whole)
    findings.percentiles("the same without its bootstraps", added)


async def _share(work: Callable[[T], Awaitable[None]], items: Sequence[T], clients: int) -> None:
    """Work through items, ``clients`` at a time."""
    rest: Iterator[T] = iter(items)

    async def one_by_one() -> None:
        for item in rest:
            await work(item)

    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(one_by_one)


async def _usage(service: Service) -> Usage:
    """Ask the service's metrics and the kernel's accounting."""
    text = await trio.to_thread.run_sync(_metrics, service.addresses.health)
    stat = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()  # noqa: ASYNC240 - no disk
    ticks = int(stat[11]) + int(stat[12])  # user and system, of all threads and of no child
    return Usage(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
        kernel_seconds=_metric(text, "executor_kernel_cpu_seconds_total"),
        busy_seconds=_metric(text, "executor_busy_seconds_total"),
        bootstraps=_metric(text, "executor_bootstraps_total"),
    )


def _metrics(health: str) -> str:
    with urlopen(f"{health}/metrics") as answer:  # noqa: S310 - an address of our own
        return str(answer.read(), "utf-8")


def _metric(text: str, name: str) -> float:
    """Sum a metric over its labels."""
    found = re.findall(rf"^coproc_{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    if not found:
        raise FatalError(f"the service does not report {name}")
    return sum(float(value) for value in found)


def _status(service: Service, name: str) -> int:
    """Read a size in KiB from the kernel's accounting."""
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise FatalError(f"the kernel does not report {name}")
    return int(found[1])
