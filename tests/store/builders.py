"""Small builders for store tests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from coproc.program.computation import Computation, Operation
from coproc.program.types import FheType, Handle, new_handle
from coproc.store.base import (
    Failure,
    GroupOutcome,
    KeyRecord,
    Store,
    StoredCiphertext,
    Submission,
    WorkGroup,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

KEY_DATA = b"a server key"
KEY = hashlib.sha256(KEY_DATA).digest()
TRANSACTION = b"t" * 32


def handle() -> Handle:
    return new_handle(FheType.UINT8)


async def pieces(*chunks: bytes) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def with_key(store: Store, data: bytes = KEY_DATA) -> bytes:
    key_id = hashlib.sha256(data).digest()
    assert await store.put_key(KeyRecord(key_id, len(data), "toy"), pieces(data[:3], data[3:]))
    return key_id


def ciphertext(name: Handle, data: bytes = b"bytes", key_id: bytes = KEY) -> StoredCiphertext:
    return StoredCiphertext(name, key_id, data)


async def with_inputs(store: Store, count: int) -> list[Handle]:
    """Register the key and upload ``count`` ciphertexts."""
    await with_key(store)
    handles = [handle() for _ in range(count)]
    assert await store.put_ciphertexts([ciphertext(name) for name in handles]) == count
    return handles


def add(*operands: Handle, output: Handle | None = None, is_allowed: bool = True) -> Computation:
    operation = Operation.ADD if len(operands) == 2 else Operation.SUM
    return Computation(output or handle(), operation, operands, is_allowed)


def batch(*computations: Computation, transaction: bytes = TRANSACTION, key_id: bytes = KEY) -> Submission:
    return Submission(key_id, transaction, computations)


def done(group: WorkGroup, failures: Iterable[Handle] = (), data: bytes = b"result") -> GroupOutcome:
    """Every wanted output of ``group``, except that ``failures`` fail."""
    failed = set(failures)
    return GroupOutcome(
        group.group_id,
        tuple(ciphertext(name, data, group.key_id) for name in sorted(group.wanted - failed)),
        {name: Failure("BROKEN", "by the test") for name in failed},
    )


async def work(store: Store, worker: str = "worker") -> int:
    """Claim and finish until nothing is ready; returns the number of groups done."""
    count = 0
    while groups := await store.claim(worker, 10, 60):
        for group in groups:
            assert await store.finish(worker, done(group))
            count += 1
    return count
