"""What goes wrong, when, and to whom: a plan that is a pure function of its seed, and the hands that carry it out.

Decides the kinds of faults and how a plan is drawn. A plan names its victims by role and number, so that it can be
carried out again; what the victims are doing at that moment is not part of it.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import trio

from tests.chaos.cluster import ChaosFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.chaos.cluster import Deployment

Kind: TypeAlias = Literal[
    "roll",
    "kill",
    "stall",
    "end_sessions",
    "restart_postgres",
    "kill_postgres",
    "kill_session",
    "stall_postgres",
    "fill_disk",
    "shift_clock",
    "stop_objects",
]
EVERYTHING: Final[tuple[Kind, ...]] = get_args(Kind)
ON_SERVICES: Final[frozenset[Kind]] = frozenset({"roll", "kill", "stall"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    after: float
    """Seconds after the fault before it was over."""
    kind: Kind
    role: str = ""
    index: int = 0
    seconds: float = 0.0
    """How long it lasts, or by how much the clock is wrong."""
    chance: float = 0.0
    """Uniform in [0, 1): chooses among what is only known when it happens, such as sessions."""

    def __str__(self) -> str:
        victim = f" {self.role}[{self.index}]" if self.role else ""
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"after {self.after:.2f} s: {self.kind}{victim}{lasting}"


def draw(
    seed: int, kinds: Sequence[Kind], count: int, roles: Mapping[str, int], *, pace: tuple[float, float]
) -> tuple[Fault, ...]:
    """Draw a plan: every kind equally often as far as ``count`` allows, in random order, ``pace`` seconds apart."""
    chance = random.Random(seed)
    order: list[Kind] = [kinds[number % len(kinds)] for number in range(count)]
    chance.shuffle(order)
    faults: list[Fault] = []
    for kind in order:
        role = chance.choice(sorted(roles)) if kind in ON_SERVICES else ""
        index = chance.randrange(roles[role]) if role else 0
        seconds = {
            "stall": chance.uniform(2, 12),
            "stall_postgres": chance.uniform(1, 8),
            "restart_postgres": chance.uniform(0, 3),
            "kill_postgres": chance.uniform(0, 2),
            "fill_disk": chance.uniform(2, 6),
            "stop_objects": chance.uniform(1, 10),
            "shift_clock": chance.choice([-86_400.0, -3_600.0, -60.0, 60.0, 3_600.0, 86_400.0]),
        }.get(kind, 0.0)
        faults.append(Fault(chance.uniform(*pace), kind, role, index, seconds, chance.random()))
    return tuple(faults)


async def carry_out(fault: Fault, deployment: Deployment) -> None:  # noqa: C901, PLR0912 - one case a kind
    """Do the damage, and undo what of it an operator or the machine would undo."""
    on_thread = trio.to_thread.run_sync
    postgres = deployment.postgres
    match fault.kind:
        case "roll":
            await on_thread(deployment.roll, [(fault.role, fault.index)] if fault.role else deployment.places)
        case "kill":
            victim = deployment.services[fault.role][fault.index]
            victim.send(signal.SIGKILL)
            await on_thread(victim.await_end)
            victim.spawn()
        case "stall":
            victim = deployment.services[fault.role][fault.index]
            victim.send(signal.SIGSTOP)
            await trio.sleep(fault.seconds)
            victim.send(signal.SIGCONT)
        case "end_sessions":
            sessions = await on_thread(postgres.backends)
            await on_thread(postgres.terminate, sessions[: 1 + int(fault.chance * len(sessions))])
        case "restart_postgres":
            await on_thread(postgres.stop)
            await trio.sleep(fault.seconds)
            await on_thread(postgres.start)
        case "kill_postgres":
            await on_thread(postgres.stop, signal.SIGKILL)
            await trio.sleep(fault.seconds)
            await on_thread(postgres.start)
        case "kill_session":
            # One session that dies takes all of them along: the server recovers as after a crash.
            sessions = await on_thread(postgres.backends)
            if sessions:
                kill(sessions[int(fault.chance * len(sessions))])
        case "stall_postgres":
            postgres.signal_group(signal.SIGSTOP)
            try:
                await trio.sleep(fault.seconds)
            finally:
                postgres.signal_group(signal.SIGCONT)
        case "fill_disk":
            await fill_disk(deployment, fault.seconds)
        case "stop_objects":
            assert deployment.objects is not None
            deployment.objects.stop()
            await trio.sleep(fault.seconds)
            await on_thread(deployment.objects.start)
        case "shift_clock":
            deployment.clock.put(deployment.clock.offset + int(fault.seconds))


def kill(pid: int) -> None:
    """Send SIGKILL to a session that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def fill_disk(deployment: Deployment, seconds: float) -> None:
    """Leave not one free byte on the database's file system for a while; restart Postgres if that ended it."""
    ballast = deployment.folder / "database" / "ballast"
    size = await trio.to_thread.run_sync(fill, ballast)
    if size == 0:
        raise ChaosFailure("there was nothing to fill")
    try:
        await trio.sleep(seconds)
    finally:
        ballast.unlink()
    await trio.to_thread.run_sync(deployment.revive_postgres)


def fill(path: Path) -> int:
    """Write zeros until the disk is full; returns how many bytes that took."""
    size = 0
    with path.open("wb", buffering=0) as file:
        block = bytes(1 << 20)
        while block:
            try:
                size += file.write(block)
            except OSError:
                block = block[: len(block) // 2]
    return size
