"""``coproc bench chain``: how many events a second one process takes in, computing switched off.

Decides the load: blocks of token transfers (a comparison, a selection, an addition, a subtraction and their permissions
each), as a node's JSON. They take the way they take in the service, from text to the committed transaction in Postgres.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import trio
from eth_abi.abi import encode

from coproc.chain.blocks import Header, read_logs
from coproc.chain.events import ACL_TOPICS, EXECUTOR_TOPICS, Contracts, read_block
from coproc.program.types import FheType, Handle, new_handle
from coproc.store.base import KeyRecord
from coproc.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coproc.store.chains import ChainStore

CHAIN_ID: Final = 31337
CONTRACTS: Final = Contracts(b"\xe3" * 20, b"\x50" * 20)
_TOPICS: Final = {name: topic for topic, name in (EXECUTOR_TOPICS | ACL_TOPICS).items()}
_KEY: Final = b"a key that nothing is computed with"


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured."""

    blocks: int
    operator_events: int
    all_events: int
    """With permissions."""
    read_seconds: float
    """From JSON to computations."""
    write_seconds: float
    """To the committed transactions."""

    @property
    def events_per_second(self) -> float:
        """Operator events a second, reading and writing by turns."""
        return self.operator_events / (self.read_seconds + self.write_seconds)


@click.command("chain")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--blocks", default=20, show_default=True)
@click.option("--transfers", default=100, show_default=True, help="In a block; each has 5 operator events.")
@click.option("--database-url", help="postgresql://... or memory://; without it a database is started for this.")
def bench_chain(blocks: int, transfers: int, database_url: str | None, *, as_json: bool) -> None:
    """Measure how many events of a chain one process takes in a second."""
    result = trio.run(_run, blocks, transfers, database_url)
    if as_json:
        click.echo(json.dumps(asdict(result) | {"events_per_second": result.events_per_second}))
        return
    click.echo(
        f"{result.operator_events} operator events ({result.all_events} with permissions) in {result.blocks} blocks: "
        f"{result.events_per_second:.0f} a second; reading took {result.read_seconds:.2f} s, "
        f"writing {result.write_seconds:.2f} s"
    )


async def _run(blocks: int, transfers: int, database_url: str | None) -> Result:
    if database_url is not None:
        async with open_store(database_url) as store:
            return await measure(store, blocks, transfers)
    from nurseries.postgres import run_postgres  # noqa: PLC0415 - only where it is asked for

    with tempfile.TemporaryDirectory(prefix="coproc-bench-") as name:
        Path(name).chmod(0o711)  # noqa: ASYNC240 - nothing runs yet; a server started by root runs as another user
        async with trio.open_nursery() as nursery:
            url = await nursery.start(run_postgres, Path(name) / "data")
            async with open_store(url) as store:
                result = await measure(store, blocks, transfers)
            nursery.cancel_scope.cancel(reason="measured")
    return result


async def measure(store: ChainStore, blocks: int, transfers: int) -> Result:
    """Take blocks in, and time it."""
    key_id = hashlib.sha256(_KEY).digest()
    await store.put_key(KeyRecord(key_id, len(_KEY), "none"), _chunks())
    parent, balances = bytes(32), [new_handle(FheType.UINT64, CHAIN_ID) for _ in range(transfers)]
    read_seconds = write_seconds = 0.0
    events = operators = 0
    for number in range(blocks):
        block_hash = hashlib.sha256(parent).digest()
        text = _block(block_hash, number, balances)
        started = time.perf_counter()
        logs = read_logs(json.loads(text), block_hash)
        block = read_block(CHAIN_ID, Header(number, block_hash, parent), logs, CONTRACTS)
        read = time.perf_counter()
        await store.advance_chain(CHAIN_ID, key_id, (), [block])
        read_seconds += read - started
        write_seconds += time.perf_counter() - read
        events += len(logs)
        operators += len(block.computations)
        parent = block_hash
    return Result(blocks, operators, events, read_seconds, write_seconds)


async def _chunks() -> AsyncIterator[bytes]:
    yield _KEY


def _block(block_hash: bytes, number: int, balances: list[Handle]) -> str:
    """Write a block's logs as a node does; every transfer reads and replaces a balance."""
    logs: list[dict[str, object]] = []

    def add(name: str, transaction: bytes, types: tuple[str, ...], *values: object) -> None:
        is_operator = _TOPICS[name] in EXECUTOR_TOPICS
        topics = [_TOPICS[name], bytes(32)] + ([] if is_operator or name == "AllowedForDecryption" else [bytes(32)])
        logs.append(
            {
                "address": "0x" + (CONTRACTS.executor if is_operator else CONTRACTS.acl).hex(),
                "topics": ["0x" + topic.hex() for topic in topics],
                "data": "0x" + encode(types, values).hex(),
                "blockHash": "0x" + block_hash.hex(),
                "transactionHash": "0x" + transaction.hex(),
                "logIndex": hex(len(logs)),
            }
        )

    binary = ("bytes32", "bytes32", "bytes1", "bytes32")
    for index, balance in enumerate(balances):
        transaction = hashlib.sha256(block_hash + index.to_bytes(4, "big")).digest()
        enough = new_handle(FheType.BOOL, CHAIN_ID)
        amount, moved, left, right = (new_handle(FheType.UINT64, CHAIN_ID) for _ in range(4))
        add("TrivialEncrypt", transaction, ("uint256", "uint8", "bytes32"), number, FheType.UINT64, amount)
        add("FheGe", transaction, binary, balance, amount, b"\0", enough)
        add("FheIfThenElse", transaction, ("bytes32",) * 4, enough, amount, balance, moved)
        add("FheAdd", transaction, binary, amount, moved, b"\0", right)
        add("FheSub", transaction, binary, balance, moved, b"\0", left)
        for handle in (left, right):
            add("Allowed", transaction, ("bytes32",), handle)
            add("Allowed", transaction, ("bytes32",), handle)
        balances[index] = left
    return json.dumps(logs)
