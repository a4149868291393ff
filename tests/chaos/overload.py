"""More work than can be done: what is accepted is done, the rest is refused at once with a reason, memory stays flat.

Decides how capacity is measured, how load is offered and what counts as flat. The load is open: callers come at their
rate however the service does, and none tries again.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

import trio

from coproc.client import State, Transaction
from coproc.errors import Overloaded, RecoverableError
from coproc.program.types import FheType, Handle, new_handle
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2
from nurseries.bridge import TrioClient, open_client
from tests.chaos import invariants
from tests.chaos.callers import register
from tests.chaos.cluster import ChaosFailure, Deployment, deployment

if TYPE_CHECKING:
    from collections.abc import Mapping

QUEUE: Final = 40
"""Groups that may wait, over all callers."""
SETTINGS: Final = {
    "LIMITS__MAX_OPEN_GROUPS": str(QUEUE),
    "LIMITS__MAX_CALLS": "64",
    "LIMITS__MAX_CONNECTIONS": "64",
    "CIPHERTEXT_CACHE_BYTES": str(16 << 20),
}
ROLES: Final = {"api": 1, "worker": 1}
CLIENTS: Final = 8
MOST_IN_FLIGHT: Final = 256
"""Submissions that the driver itself keeps open at once."""
SLACK_BYTES: Final = 48 << 20
"""By how much resident memory may be larger in the second half than at its highest in the first."""
WARM_SECONDS: Final = 60.0
WARMING_BYTES: Final = 160 << 20
"""Likewise in rounds so short that caches and allocators are still filling up."""
DONE_SECONDS: Final = 900.0


@dataclass(slots=True)
class Tally:
    """What became of submissions."""

    accepted: dict[Handle, int] = field(default_factory=dict[Handle, int])
    """Outputs with their right values."""
    refused: list[float] = field(default_factory=list[float])
    """How long each refusal took, in seconds."""
    offered: int = 0
    wrong: list[str] = field(default_factory=list[str])
    resident: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


def run_overload(seed: int, factor: float, seconds: float) -> str:
    """Offer ``factor`` times what can be done for ``seconds``; returns what came of it. Raises ChaosFailure."""
    with deployment(roles=ROLES, settings=SETTINGS) as deployed:
        return trio.run(_overload, deployed, seed, factor, seconds)


async def _overload(deployed: Deployment, seed: int, factor: float, seconds: float) -> str:
    key = ClientKey.generate(TOY_2_2, tag=b"chaos")
    key_id = await register(deployed.grpc_port, key.compressed_server_key())
    chance = random.Random(seed)
    values = {new_handle(FheType.UINT64): chance.randrange(1 << 64) for _ in range(8)}
    tally = Tally()
    async with trio.open_nursery() as nursery:
        clients = [await nursery.start(_client, deployed.grpc_port) for _ in range(CLIENTS)]
        await clients[0].upload(
            key_id, {handle: key.encrypt(value, 64, signed=False) for handle, value in values.items()}
        )
        capacity = await _capacity(clients[0], key_id, values, chance, seconds / 10)
        nursery.start_soon(_watch_memory, deployed, tally)
        began = time.monotonic()
        await _offer(clients, key_id, values, chance, tally, rate=factor * capacity, seconds=seconds)
        lasted = time.monotonic() - began
        await _await_all(clients[0], tally, key)
        nursery.cancel_scope.cancel(reason="everything that was accepted is done")
    faults = [*tally.wrong, *await trio.to_thread.run_sync(invariants.check_logs, deployed.folder)]
    faults += _check_memory(tally.resident, SLACK_BYTES if seconds >= WARM_SECONDS else WARMING_BYTES)
    if not tally.refused:
        faults.append("nothing was refused: this was no overload")
    if faults:
        raise ChaosFailure(f"{len(faults)} promises were broken:\n" + "\n".join(faults[:50]))
    slow = sorted(tally.refused)
    memory = ", ".join(
        f"{name} {_mebibytes(max(halves[0]))} then {_mebibytes(max(halves[1]))}"
        for name, halves in ((name, _halves(sizes)) for name, sizes in tally.resident.items())
    )
    rate = tally.offered / lasted
    return (
        f"capacity {capacity:.1f}/s, offered {rate:.1f}/s ({rate / capacity:.1f} times)"
        f" for {lasted:.0f} s; {len(tally.accepted)} accepted, all completed and right; {len(slow)} refused with"
        f" RESOURCE_EXHAUSTED after {median(slow) * 1000:.0f} ms (median), {slow[int(len(slow) * 0.99)] * 1000:.0f} ms"
        f" (99th); most resident memory in the first and the second half: {memory} MiB"
    )


async def _client(port: int, *, task_status: trio.TaskStatus[TrioClient]) -> None:
    async with open_client("127.0.0.1", port, attempts=1) as client:
        task_status.started(client)
        await trio.sleep_forever()


def _product(key_id: bytes, values: Mapping[Handle, int], chance: random.Random) -> tuple[Transaction, Handle, int]:
    a, b = chance.choice(list(values)), chance.choice(list(values))
    draft = Transaction(key_id)
    return draft, draft.mul(a, b, allow=True), values[a] * values[b] % (1 << 64)


async def _capacity(
    client: TrioClient, key_id: bytes, values: Mapping[Handle, int], chance: random.Random, seconds: float
) -> float:
    """Measure how many products a second are computed while the queue never empties."""
    done, began, warm = 0, time.monotonic(), False
    while True:
        outputs: list[Handle] = []
        for _ in range(QUEUE // 2):
            draft, output, _ = _product(key_id, values, chance)
            await client.submit(draft)
            outputs.append(output)
        await client.wait(outputs)
        if not warm:  # the first batch pays for loading the key and compiling the circuit
            warm, began = True, time.monotonic()
            continue
        done += len(outputs)
        if time.monotonic() - began >= seconds:
            return done / (time.monotonic() - began)


async def _offer(
    clients: list[TrioClient],
    key_id: bytes,
    values: Mapping[Handle, int],
    chance: random.Random,
    tally: Tally,
    *,
    rate: float,
    seconds: float,
) -> None:
    """Submit at a rate, whatever comes back."""
    room = trio.Semaphore(MOST_IN_FLIGHT)

    async def submit(client: TrioClient) -> None:
        draft, output, value = _product(key_id, values, chance)
        began = time.monotonic()
        try:
            await client.submit(draft)
        except Overloaded as error:
            tally.refused.append(time.monotonic() - began)
            if not error.message or ("retry_after" not in error.context and "limit" not in error.context):
                tally.wrong.append(f"a refusal that gives no reason: {error!r} {error.context}")
        except RecoverableError as error:
            tally.wrong.append(f"refused as something else than an overload: {error!r}")
        else:
            tally.accepted[output] = value
        finally:
            room.release()

    async with trio.open_nursery() as nursery:
        end = trio.current_time() + seconds
        due = trio.current_time()

        def is_over() -> bool:
            """Long enough, and enough to fill the queue several times, at whatever speed this machine has."""
            now = trio.current_time()
            full = tally.offered >= 3 * QUEUE and bool(tally.refused)
            return now >= end and (full or now >= end + DONE_SECONDS)

        while not is_over():
            await room.acquire()
            nursery.start_soon(submit, clients[tally.offered % len(clients)])
            tally.offered += 1
            due += 1 / rate
            await trio.sleep_until(due)


async def _await_all(client: TrioClient, tally: Tally, key: ClientKey) -> None:
    """Wait for everything that was accepted, and look at every value."""
    outputs = list(tally.accepted)
    with trio.fail_after(DONE_SECONDS):
        while True:
            states = await client.status(outputs)
            if all(state.state.is_final for state in states):
                break
            await trio.sleep(0.5)
    tally.wrong += [f"{state.handle.hex()}: {state.failure}" for state in states if state.state is not State.COMPLETED]
    for item in await client.fetch(outputs):
        if item.ciphertext is None or int(key.decrypt(item.ciphertext)) != tally.accepted[item.handle]:
            tally.wrong.append(f"{item.handle.hex()} is not what it should be")


async def _watch_memory(deployed: Deployment, tally: Tally) -> None:
    while True:
        for process in deployed.processes:
            tally.resident.setdefault(process.name, []).append(process.resident_bytes())
        await trio.sleep(0.5)


def _halves(sizes: list[int]) -> tuple[list[int], list[int]]:
    return sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]


def _mebibytes(size: int) -> int:
    return size >> 20


def _check_memory(resident: Mapping[str, list[int]], slack: int) -> list[str]:
    faults: list[str] = []
    for name, sizes in resident.items():
        first, second = _halves(sizes)
        if max(second) > max(first) + slack:
            faults.append(f"{name} grew from {_mebibytes(max(first))} to {_mebibytes(max(second))} MiB")
    return faults
