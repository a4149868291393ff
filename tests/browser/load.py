"""Callers of a service, for tests and screenshots: programs as contracts ask for them, and some that fail or wait."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from coproc.client import Transaction
from coproc.errors import CoprocError
from coproc.program.types import FheType, new_handle
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.program.types import Handle
    from coproc.tfhe.client import ClientKey
    from nurseries.bridge import TrioClient

BITS = 64


class Program(Protocol):
    """Writes computations on some handles of ``BITS`` bits."""

    def __call__(self, t: Transaction, values: Sequence[Handle], /) -> None: ...


@dataclass(slots=True)
class Submitted:
    """Ids of transactions by the name of their program, newest last."""

    by_program: dict[str, list[bytes]] = field(default_factory=dict["str", "list[bytes]"])

    def latest(self, program: str) -> str | None:
        """The newest one, in hexadecimal."""
        found = self.by_program.get(program)
        return found[-1].hex() if found else None


def transfer(t: Transaction, values: Sequence[Handle]) -> None:
    """Move an amount if there is enough."""
    source, target, amount = values[:3]
    zero = t.trivial_encrypt(0, FheType.UINT64)
    moved = t.if_then_else(t.ge(source, amount), amount, zero, allow=True)
    t.sub(source, moved, allow=True)
    t.add(target, moved, allow=True)


def auction(t: Transaction, values: Sequence[Handle]) -> None:
    """Find the highest bid and who made it."""
    best, winner = values[0], t.trivial_encrypt(0, FheType.UINT8)
    for number, bid in enumerate(values[1:], 1):
        higher = t.gt(bid, best)
        winner = t.if_then_else(higher, t.trivial_encrypt(number, FheType.UINT8), winner, allow=bid is values[-1])
        best = t.if_then_else(higher, bid, best, allow=bid is values[-1])


def payroll(t: Transaction, values: Sequence[Handle]) -> None:
    """Pay a share of a fund to each."""
    fund, *salaries = values[:5]
    total = t.sum(salaries)
    enough, nothing = t.ge(fund, total), t.trivial_encrypt(0, FheType.UINT64)
    for salary in salaries:
        t.if_then_else(enough, t.sub(salary, t.shr(salary, 2)), nothing, allow=True)
    t.if_then_else(enough, t.sub(fund, total), fund, allow=True)


def division(t: Transaction, values: Sequence[Handle]) -> None:
    """Divide by a clear zero, go on with the quotient, and do something else that is right."""
    wrong = t.div(values[0], 0, allow=True)
    t.add(t.mul(wrong, 3), values[1], allow=True)
    t.max(values[1], values[2], allow=True)


def waiting(t: Transaction, values: Sequence[Handle]) -> None:
    """Read a value that nobody uploads."""
    t.min(t.add(values[0], new_handle(FheType.UINT64)), values[1], allow=True)
    t.bit_xor(values[0], values[1], allow=True)


PROGRAMS: Mapping[str, tuple[Program, int]] = {
    "transfer": (transfer, 60),
    "auction": (auction, 20),
    "payroll": (payroll, 15),
    "division": (division, 3),
    "waiting": (waiting, 2),
}
"""Programs and how often each is asked for, relatively."""


async def call(
    target: tuple[str, int],
    tokens: Sequence[str | None],
    client_key: ClientKey,
    server_key: bytes,
    submitted: Submitted,
    *,
    pause: float = 0.3,
) -> None:
    """Ask for programs, each caller by itself, until cancelled."""
    async with trio.open_nursery() as nursery:
        for number, token in enumerate(tokens):
            nursery.start_soon(_call, target, token, client_key, server_key, submitted, random.Random(number), pause)


async def _call(
    target: tuple[str, int],
    token: str | None,
    client_key: ClientKey,
    server_key: bytes,
    submitted: Submitted,
    chance: random.Random,
    pause: float,
) -> None:
    async with open_client(*target, token=token) as client:
        key_id = await client.register_key(server_key)
        values = await upload(client, client_key, key_id, 12)
        names, weights = list(PROGRAMS), [weight for _, weight in PROGRAMS.values()]
        began = trio.current_time()
        while True:
            (name,) = chance.choices(names, weights)
            try:
                await submit(client, key_id, name, chance.sample(values, 9), submitted)
            except CoprocError:
                await trio.sleep(1.0)
            # Tides, so that there is something to see.
            tide = 1.0 if int((trio.current_time() - began) / 20) % 3 else 3.0
            await trio.sleep(chance.expovariate(1 / (pause * tide)))


async def upload(client: TrioClient, client_key: ClientKey, key_id: bytes, count: int) -> list[Handle]:
    """Encrypt and upload some values."""
    values = {new_handle(FheType.UINT64): client_key.encrypt(1000 * number, BITS) for number in range(1, count + 1)}
    await client.upload(key_id, values)
    return list(values)


async def submit(
    client: TrioClient, key_id: bytes, name: str, values: Sequence[Handle], submitted: Submitted
) -> Transaction:
    """Submit one program."""
    transaction = Transaction(key_id)
    PROGRAMS[name][0](transaction, values)
    await client.submit(transaction)
    submitted.by_program.setdefault(name, []).append(transaction.transaction_id)
    return transaction
