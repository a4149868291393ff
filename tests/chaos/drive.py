"""Rounds: a deployment, its callers and subscribers, a plan of faults, and the reckoning.

Decides how a round begins and ends. What goes wrong is in ``faults``, what must hold in ``invariants``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import click
import trio

from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2
from tests.chaos import invariants
from tests.chaos.callers import Crowd, Ledger, register
from tests.chaos.cluster import ChaosFailure, Deployment, deployment
from tests.chaos.faults import carry_out
from tests.chaos.fuzz import FAMILIES
from tests.chaos.fuzz_network import calls, frames, websockets
from tests.chaos.subscribers import Record, follow_grpc, follow_slowly, follow_websocket, never_read, vanish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.chaos.faults import Fault

SETTLE_SECONDS: Final = 900.0
"""Patience with what is left when the faults are over; it says how slow a machine may be."""
PROGRESS_SECONDS: Final = 120.0
"""Patience with callers between two faults."""
SHARES: Final = (48, 36, 8, 1)
"""Per cent of all inputs that each family of parsers gets; the rest goes over sockets."""
ROLES: Final = {"api": 2, "worker": 2, "results": 2}


@dataclass(frozen=True, slots=True)
class Round:
    """What a round consists of."""

    seed: int
    faults: Sequence[Fault]
    roles: Mapping[str, int] = field(default_factory=lambda: ROLES)
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    helpers: int = 2
    cores: int = 2
    disk_bytes: int | None = None
    with_objects: bool = False
    """Whether large values are in an object store."""
    pause: float = 0.2
    jobs_between: int = 0
    """Jobs that callers must have finished between two faults."""
    may_fail_calls: bool = True
    """Whether calls may fail while a fault lasts, and be repeated; what was acknowledged holds anyway."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a round."""

    seconds: float
    faults: int
    calls: int
    failed_calls: int
    jobs: int
    acknowledged: int
    """Computations whose results were promised."""
    results: int
    subscribers: Mapping[str, int]
    """How often each faithful one had to connect."""

    def __str__(self) -> str:
        lines = ", ".join(f"{name} {count}" for name, count in self.subscribers.items())
        return (
            f"{self.faults} faults in {self.seconds:.0f} s; {self.calls} calls, {self.failed_calls} failed;"
            f" {self.acknowledged} acknowledged outputs in {self.jobs} finished jobs, {self.results} results, none"
            f" lost, doubled or wrong; connections of subscribers: {lines}"
        )


def run_round(plan: Round) -> Report:
    """Play a round; raises ChaosFailure, with everything that is wrong, if a promise was broken."""
    with deployment(
        roles=plan.roles, settings=plan.settings, disk_bytes=plan.disk_bytes, with_objects=plan.with_objects
    ) as deployed:
        return trio.run(partial(_play, plan, deployed))


def run_fuzz(seed: int, inputs: int) -> dict[str, Counter[str]]:
    """Feed ``inputs`` broken inputs to parsers and to a real service; returns what came of each family.

    The service must compute as before afterwards, and its log must name no defect.
    """
    chance = random.Random(seed)
    said = {
        name: family(chance, inputs * share // 100)
        for (name, family), share in zip(FAMILIES.items(), SHARES, strict=True)
    }
    settings = {"EXECUTOR": "cpu", "INPUT_PROOFS": "trust"}
    with deployment(roles={"api,results,worker": 1}, settings=settings) as deployed:
        return said | trio.run(_fuzz_service, deployed, chance, inputs)


async def _fuzz_service(deployed: Deployment, chance: random.Random, inputs: int) -> dict[str, Counter[str]]:
    key = ClientKey.generate(TOY_2_2, tag=b"chaos")
    key_id = await register(deployed.grpc_port, key.compressed_server_key())
    ciphertext = key.encrypt(5, 8, signed=False)
    before = deployed.processes[0].resident_bytes()
    port = deployed.grpc_port
    said = {
        "gRPC calls": await calls(port, key_id, ciphertext, chance, inputs * 1 // 100),
        "HTTP/2 frames": await frames(port, key_id, ciphertext, chance, inputs * 4 // 100),
        "websocket frames": await websockets(deployed.results_port, chance, inputs * 2 // 100),
    }
    after = deployed.processes[0].resident_bytes()
    said["resident MiB"] = Counter(before=before >> 20, after=after >> 20)
    ledger = Ledger()
    crowd = Crowd(port, key, key_id, ledger, seed=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.helper, 0)
        nursery.start_soon(crowd.core, 0)
        while ledger.jobs < 6:  # noqa: ASYNC110 - threads count, too
            await trio.sleep(0.1)
        crowd.stopping.set()
    faults = [*ledger.wrong, *ledger.failed_calls, *invariants.check_logs(deployed.folder)]
    faults += invariants.check_reasons(deployed.postgres.url)
    if faults:
        raise ChaosFailure(f"{len(faults)} promises were broken:\n" + "\n".join(faults[:50]))
    return said


async def _play(plan: Round, deployed: Deployment) -> Report:
    key = ClientKey.generate(TOY_2_2, tag=b"chaos")
    server_key = key.compressed_server_key()
    ledger = Ledger()
    faithful = [Record("websocket-1"), Record("websocket-2"), Record("grpc"), Record("vanishing"), Record("slow")]
    began = time.monotonic()
    async with trio.open_nursery() as followers:
        url = deployed.websocket
        key_id = await register(deployed.grpc_port, server_key)
        crowd = Crowd(deployed.grpc_port, key, key_id, ledger, plan.seed, plan.pause)
        followers.start_soon(follow_websocket, url, faithful[0])
        followers.start_soon(follow_websocket, url, faithful[1])
        followers.start_soon(follow_grpc, deployed.grpc_port, faithful[2])
        followers.start_soon(vanish, url, faithful[3], random.Random(f"{plan.seed}/vanish"))
        followers.start_soon(follow_slowly, url, faithful[4], random.Random(f"{plan.seed}/slow"))
        followers.start_soon(never_read, deployed.results_port)
        async with trio.open_nursery() as callers:
            for number in range(plan.helpers):
                callers.start_soon(crowd.helper, number)
            for number in range(plan.cores):
                callers.start_soon(crowd.core, number)
            await _carry_out_all(plan, deployed, ledger)
            crowd.stopping.set()
        await _settle(deployed, ledger, faithful)
        followers.cancel_scope.cancel(reason="the round is over")
    faults = [*ledger.wrong]
    if not plan.may_fail_calls:
        faults += [f"failed call: {text}" for text in ledger.failed_calls]
    root = deployed.objects.root if deployed.objects is not None else None
    faults += await trio.to_thread.run_sync(invariants.check_database, deployed.postgres.url, ledger, key, root)
    faults += await trio.to_thread.run_sync(invariants.check_records, deployed.postgres.url, faithful)
    faults += await trio.to_thread.run_sync(invariants.check_logs, deployed.folder)
    if not ledger.acknowledged:
        faults.append("nothing was acknowledged: the round shows nothing")
    if faults:
        raise ChaosFailure(f"{len(faults)} promises were broken:\n" + "\n".join(faults[:50]))
    return Report(
        seconds=time.monotonic() - began,
        faults=len(plan.faults),
        calls=ledger.calls,
        failed_calls=len(ledger.failed_calls),
        jobs=ledger.jobs,
        acknowledged=sum(len(promise.expected) for promise in ledger.acknowledged),
        results=faithful[0].position,
        subscribers={record.name: record.connections for record in faithful if record.connections},
    )


async def _carry_out_all(plan: Round, deployed: Deployment, ledger: Ledger) -> None:
    """Let the callers get going, then let things go wrong one after another."""
    while ledger.jobs < plan.helpers + plan.cores:  # noqa: ASYNC110 - threads count, too
        await trio.sleep(0.05)
    for number, fault in enumerate(plan.faults, 1):
        # A fault that follows too soon for anything to be done in between would find nothing to break.
        jobs = ledger.jobs
        with trio.move_on_after(PROGRESS_SECONDS):
            while ledger.jobs < jobs + plan.jobs_between:  # noqa: ASYNC110 - threads count, too
                await trio.sleep(0.05)
        await trio.sleep(fault.after)
        for process in deployed.processes:
            _ = process.is_ready  # raises if one has ended unasked
        click.echo(
            f"[{number}/{len(plan.faults)}] {fault}; {ledger.jobs} jobs, {len(ledger.failed_calls)} failed calls,"
            f" {len(ledger.wrong)} wrong"
        )
        await carry_out(fault, deployed)
    for process in deployed.processes:
        await trio.to_thread.run_sync(process.await_ready)
    await trio.sleep(1)


async def _settle(deployed: Deployment, ledger: Ledger, records: Sequence[Record]) -> None:
    """Wait until everything acknowledged has ended, and every subscriber has heard of it."""
    url = deployed.postgres.url
    with trio.move_on_after(SETTLE_SECONDS):
        while await trio.to_thread.run_sync(invariants.open_work, url, ledger):  # noqa: ASYNC110 - a database
            await trio.sleep(0.2)
        last = await trio.to_thread.run_sync(invariants.last_sequence, url)
        while any(record.position < last for record in records):  # noqa: ASYNC110 - of many
            await trio.sleep(0.1)
