"""Computations that can never succeed, of many kinds, among ones that can: through gRPC, on a real database.

``COPROC_POISON=50`` runs 50 of every kind, which is the full size of some 1,000 among 1,000.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import trio

from coproc.client import State, Transaction
from coproc.config import Addresses, Config
from coproc.program.types import FheType, Handle, new_handle
from coproc.store.connection import TrioConnection
from coproc.store.operands import encode_operands
from coproc.store.rules import INPUT_FAILED
from nurseries.bridge import TrioClient, open_client
from nurseries.root import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.client.records import HandleState
    from coproc.tfhe.client import ClientKey

OF_A_KIND = int(os.environ.get("COPROC_POISON", "1"))
U8, I8, U16 = FheType.UINT8, FheType.INT8, FheType.UINT16

ZERO_DIVISIONS: dict[str, tuple[FheType, Callable[[Transaction, Handle], Handle]]] = {
    "div": (U8, lambda draft, a: draft.div(a, 0, allow=True)),
    "rem": (U8, lambda draft, a: draft.rem(a, 0, allow=True)),
    "signed div": (I8, lambda draft, a: draft.div(a, 0, allow=True)),
    "signed rem": (I8, lambda draft, a: draft.rem(a, 0, allow=True)),
    "wide div": (U16, lambda draft, a: draft.div(a, 0, allow=True)),
    "wide rem": (U16, lambda draft, a: draft.rem(a, 0, allow=True)),
}
"""Refused by the plan: the divisor is clear, so that nothing needs computing to know."""

DAMAGED_CIPHERTEXTS: dict[str, Callable[[bytes, ClientKey], bytes]] = {
    "empty": lambda _data, _key: b"",
    "cut in half": lambda data, _key: data[: len(data) // 2],
    "last byte missing": lambda data, _key: data[:-1],
    "byte too many": lambda data, _key: data + b"x",
    "zeros": lambda data, _key: bytes(len(data)),
    "other bytes": lambda data, _key: bytes(255 - byte for byte in data),
    "wider": lambda _data, key: key.encrypt(3, 16, signed=False),
    "signed": lambda _data, key: key.encrypt(3, 8, signed=True),
    "endless length": lambda data, _key: data[:8] + b"\xff" * 8 + data[16:],
}
"""Rows of stored inputs that somebody damaged."""

DAMAGED_DEFINITIONS: dict[str, tuple[int, Callable[[Handle], bytes]]] = {
    "no such operation": (99, lambda a: encode_operands([a, a])),
    "no operands": (0, lambda _a: b""),
    "noise": (0, lambda _a: b"\x07\xff\xff"),
    "one operand": (0, lambda a: encode_operands([a])),
    "operand of another type": (0, lambda a: encode_operands([a, new_handle(U16)])),
    "no handle": (0, lambda a: encode_operands([a, Handle(a[:9])])),
}
"""Rows of computations that somebody damaged."""
KINDS = len(ZERO_DIVISIONS) + len(DAMAGED_CIPHERTEXTS) + len(DAMAGED_DEFINITIONS)


def double(draft: Transaction, a: Handle) -> Handle:
    return draft.add(a, a, allow=True)


class Case:
    """One poisoned computation among good ones of its transaction."""

    def __init__(self, key_id: bytes, kind: str, rule: str, source: Handle, fine: Handle) -> None:
        self.kind, self.rule, self.source = kind, rule, source
        self.draft = Transaction(key_id)
        make = ZERO_DIVISIONS[kind][1] if kind in ZERO_DIVISIONS else double
        self.poison = make(self.draft, source)
        one = self.draft.add(fine, 1, allow=True)
        two = self.draft.add(one, 1, allow=True)
        near = self.draft.if_then_else(self.draft.eq(self.poison, 1), one, two, allow=True)
        far = self.draft.add(near, two, allow=True)
        self.good, self.dependants = {one: 6, two: 7}, (near, far)


async def execute(url: str, statement: bytes, *values: object) -> None:
    async with await TrioConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement, list(values))


async def prepare(client: TrioClient, key_id: bytes, key: ClientKey, url: str) -> list[Case]:
    """Upload inputs, damage rows and submit everything."""
    five = key.encrypt(5, 8, signed=False)
    cases: list[Case] = []
    for _ in range(OF_A_KIND):
        fine, late = new_handle(U8), new_handle(U8)
        sources = {kind: new_handle(fhe_type) for kind, (fhe_type, _) in ZERO_DIVISIONS.items()}
        damaged = {kind: new_handle(U8) for kind in DAMAGED_CIPHERTEXTS}
        values = {
            handle: key.encrypt(5, fhe_type.bits, signed=fhe_type.is_signed)
            for kind, (fhe_type, _) in ZERO_DIVISIONS.items()
            for handle in [sources[kind]]
        }
        await client.upload(key_id, {**values, fine: five, **dict.fromkeys(damaged.values(), five)})
        for kind, handle in damaged.items():
            data = DAMAGED_CIPHERTEXTS[kind](five, key)
            await execute(url, b"update ciphertexts set data = %s where handle = %s", data, handle)
        batch = [Case(key_id, kind, "DIVISION_BY_ZERO", handle, fine) for kind, handle in sources.items()]
        batch += [Case(key_id, kind, "INVALID_WIRE_OBJECT", handle, fine) for kind, handle in damaged.items()]
        waiting = [Case(key_id, kind, "DAMAGED_ROW", late, fine) for kind in DAMAGED_DEFINITIONS]
        for case in batch + waiting:
            await client.submit(case.draft)
        for case in waiting:
            operation, operands = DAMAGED_DEFINITIONS[case.kind]
            statement = b"update computations set operation = %s, operands = %s where output = %s"
            await execute(url, statement, operation, operands(late), case.poison)
        await client.upload(key_id, {late: five})
        cases += batch + waiting
    return cases


def check(case: Case, statuses: dict[Handle, HandleState]) -> None:
    """Hold one case to what was promised."""
    poisoned = statuses[case.poison]
    assert poisoned.state is State.FAILED, case.kind
    assert poisoned.failure is not None
    assert re.fullmatch(case.rule, poisoned.failure.rule), (case.kind, poisoned.failure)
    assert poisoned.failure.message
    assert poisoned.attempts == 1, (case.kind, "must not be tried again")
    for dependant in case.dependants:
        status = statuses[dependant]
        assert status.state is State.FAILED, case.kind
        assert status.failure is not None
        assert status.failure.rule == INPUT_FAILED
        assert status.failure.cause == (poisoned.failure.cause or case.poison)
        assert poisoned.failure.rule in status.failure.message, status.failure
        assert status.failure.cause is not None
        assert status.failure.cause.hex() in status.failure.message
    assert all(statuses[good].state is State.COMPLETED for good in case.good), case.kind


async def test_poison_of_every_kind_fails_alone(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes
) -> None:
    config = Config(
        database_url=database_url,
        grpc_port=0,
        results_port=0,
        health_port=0,
        executor="reference",
        drain_seconds=5.0,
        allow_insecure_parameters=True,
    )

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        assert await serve(config, task_status=task_status) == 0

    with trio.fail_after(60 + 60 * OF_A_KIND):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run)
            async with open_client(*addresses.grpc_target) as client:
                key_id = await client.register_key(toy_server_key)
                cases = await prepare(client, key_id, toy_client_key, database_url)
                assert len({case.kind for case in cases}) == KINDS >= 20
                for case in cases:
                    statuses: dict[Handle, HandleState] = {}
                    while not statuses or not all(status.state.is_final for status in statuses.values()):
                        found = await client.transaction_status(case.draft.transaction_id)
                        statuses = {status.handle: status for status in found if status.is_allowed}
                        await trio.sleep(0.05)
                    check(case, statuses)
                    for item in await client.fetch(list(case.good)):
                        assert item.ciphertext is not None
                        assert toy_client_key.decrypt(item.ciphertext) == case.good[item.handle], case.kind
            os.kill(os.getpid(), signal.SIGTERM)
